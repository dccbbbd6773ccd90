package shim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// ids are the identities of different files. Only a look at real files returns any.
var ids = func() (ids [8]lifetime.Identity) {
	dir, err := os.MkdirTemp("", "identities-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for i := range ids {
		name := fmt.Sprint(i)
		if err := os.WriteFile(lifetime.TerminatedPath(dir, name), []byte("0\n"), 0o644); err != nil {
			panic(err)
		}
		w, _ := lifetime.Watch(lifetime.Dir(dir), []string{name}, 0)
		ids[i] = w.Look()[0].ID
		w.Close()
	}
	return ids
}()

// The states that a look at a main may return. The second one of a kind has another file identity.
var (
	notStarted  = lifetime.State{Phase: lifetime.NotStarted}
	unsettled   = lifetime.State{Phase: lifetime.Unsettled}
	running     = lifetime.State{Phase: lifetime.Running, ID: ids[0]}
	nextRunning = lifetime.State{Phase: lifetime.Running, ID: ids[1]}
	unverified  = lifetime.State{Phase: lifetime.Unverified, ID: ids[2]}
	beating     = lifetime.State{Phase: lifetime.Unverified, ID: ids[3]}
	lost        = lifetime.State{Phase: lifetime.Ended, Code: 137, Cause: lifetime.Lost, ID: ids[0]}
	silent      = lifetime.State{Phase: lifetime.Ended, Code: 137, Cause: lifetime.Lost, ID: ids[2], FoundDead: true}
	unreadable  = lifetime.State{Phase: lifetime.Ended, Code: 125, Cause: lifetime.Unreadable, ID: ids[4]}
	touched     = lifetime.State{Phase: lifetime.Ended, Code: 0, Cause: lifetime.Empty, ID: ids[5]}
)

func ended(code int) lifetime.State {
	return lifetime.State{Phase: lifetime.Ended, Code: code, ID: ids[6]}
}

func endedAnew(code int) lifetime.State {
	return lifetime.State{Phase: lifetime.Ended, Code: code, ID: ids[7]}
}

// Events. An event holds the mains' states and what else has happened.
func saw(mains ...lifetime.State) event { return event{mains: mains, status: 137} }

func after(d time.Duration, e event) event { e.at = d; return e }
func term(e event) event                   { e.term = true; return e }
func exited(code int, e event) event       { e.exited, e.status = true, code; return e }
func gone(code int, e event) event         { e = exited(code, e); e.gone = true; return e }

// move is an event, and the phase and the actions that it must lead to.
type move struct {
	event
	then phase
	do   []action
}

func on(e event, then phase, do ...action) move { return move{e, then, do} }

// scenario is a row of the table.
type scenario struct {
	name           string
	cfg            Config
	ranBefore      bool
	cannotAnnounce bool // the volume is read-only
	moves          []move
	code           int           // if the last phase is finished
	why            reason        // if the last phase is finished
	wake           time.Duration // wakeAt after the last move
}

var table = []scenario{
	// "At start": the table.
	{name: "start: ended with 0, never run before: not launched", code: 0, moves: []move{
		on(saw(ended(0)), finished),
	}},
	{name: "start: ended with 0, has run before: not launched", ranBefore: true, code: 0, moves: []move{
		on(saw(ended(0)), finished),
	}},
	{name: "start: touched counts as 0", ranBefore: true, code: 0, moves: []move{
		on(saw(touched), finished),
	}},
	{name: "start: ended with 3, never run before: that code, not launched", code: 3, moves: []move{
		on(saw(ended(3)), finished),
	}},
	{name: "start: unreadable, never run before: 125, not launched", code: 125, moves: []move{
		on(saw(unreadable), finished),
	}},
	{name: "start: ended with 3, has run before: stale, the next run counts", ranBefore: true, code: 4, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(ended(3)), up),
		on(saw(running), up),
		on(saw(endedAnew(4)), confirming, announceStopping),
		on(saw(endedAnew(4)), stopping, stop),
		on(gone(143, saw(endedAnew(4))), finished),
	}},
	{name: "start: unreadable, has run before: stale", ranBefore: true, moves: []move{
		on(saw(unreadable), up, launch),
		on(saw(unreadable), up),
	}},
	{name: "start: a stale end that changes its identity is a new one", ranBefore: true, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(endedAnew(3)), confirming, announceStopping),
	}},
	{name: "start: a success that cannot be told from a stale end is new", ranBefore: true, code: 0, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(ended(0)), confirming, announceStopping),
		on(saw(ended(0)), stopping, stop),
		on(gone(143, saw(ended(0))), finished),
	}},
	{name: "start: running: launched", moves: []move{on(saw(running), up, launch)}},
	{name: "start: running, has run before: launched", ranBefore: true, moves: []move{on(saw(running), up, launch)}},
	{name: "start: unverified: launched", moves: []move{on(saw(unverified), up, launch)}},
	{name: "start: unverified, has run before: launched", ranBefore: true, moves: []move{on(saw(unverified), up, launch)}},
	{name: "start: not started: launched", moves: []move{on(saw(notStarted), up, launch)}},
	{name: "start: not started, has run before: launched", ranBefore: true, moves: []move{on(saw(notStarted), up, launch)}},
	{name: "start: waits for what is not settled", code: 3, moves: []move{
		on(saw(unsettled), starting),
		on(saw(unsettled), starting),
		on(saw(ended(3)), finished),
	}},
	{name: "start: what settles late is still found at the start", ranBefore: true, moves: []move{
		on(saw(unsettled), starting),
		on(saw(ended(3)), up, launch),
		on(saw(ended(3)), up),
	}},
	{name: "start: the run found is live and ends later, has run before: not stale", ranBefore: true, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
	}},
	{name: "start: SIGTERM before the launch: 143, not launched", code: 143, why: terminated, moves: []move{
		on(term(saw(running)), finished),
	}},
	{name: "start: SIGTERM before the launch, the end is known: its code", code: 3, why: terminated, moves: []move{
		on(term(saw(ended(3))), finished),
	}},
	{name: "start: SIGTERM while nothing is settled: 143", code: 143, why: terminated, moves: []move{
		on(saw(unsettled), starting),
		on(term(saw(unsettled)), finished),
	}},

	// "An unverified run that becomes lost without one sign of life."
	{name: "silent: lost, never run before: final, 137", code: 137, moves: []move{
		on(saw(unverified), up, launch),
		on(saw(silent), confirming, announceStopping),
		on(saw(silent), stopping, stop),
		on(gone(0, saw(silent)), finished),
	}},
	{name: "silent: lost, has run before: stale", ranBefore: true, moves: []move{
		on(saw(unverified), up, launch),
		on(saw(silent), up),
		on(saw(silent), up),
		on(saw(nextRunning), up),
		on(saw(endedAnew(0)), confirming, announceStopping),
	}},
	{name: "silent: lost at the very start (--lost-after 0s), never run before: 137", code: 137, moves: []move{
		on(saw(silent), finished),
	}},
	{name: "silent: lost at the very start, has run before: stale", ranBefore: true, moves: []move{
		on(saw(silent), up, launch),
	}},
	{name: "silent: lost under Never: final", cfg: Config{RestartPolicy: Never}, ranBefore: true, moves: []move{
		on(saw(unverified), up, launch),
		on(saw(silent), confirming, announceStopping),
	}},
	{name: "silent: lost under OnFailure: stale", cfg: Config{RestartPolicy: OnFailure}, moves: []move{
		on(saw(unverified), up, launch),
		on(saw(silent), up),
	}},
	{name: "silent: one that has shown life and is lost, has run before: not stale", ranBefore: true, moves: []move{
		on(saw(unverified), up, launch),
		on(saw(beating), up),
		on(saw(lost), confirming, announceStopping),
	}},

	// A declared policy decides instead.
	{name: "policy: OnFailure, never run before: stale", cfg: Config{RestartPolicy: OnFailure}, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(ended(3)), up),
	}},
	{name: "policy: OnFailure, ended with 0: not launched", cfg: Config{RestartPolicy: OnFailure}, code: 0, moves: []move{
		on(saw(ended(0)), finished),
	}},
	{name: "policy: Never, has run before: final", cfg: Config{RestartPolicy: Never}, ranBefore: true, code: 3, moves: []move{
		on(saw(ended(3)), finished),
	}},
	{name: "policy: --keep-on-failure implies OnFailure: the code is not the stale end's", cfg: Config{KeepOnFailure: true}, code: 143, why: terminated, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(ended(3)), up),
		on(term(saw(ended(3))), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},

	// Several mains.
	{name: "several, start: all ended: the first code that is not 0, in the order of the flags", code: 5, moves: []move{
		on(saw(ended(0), ended(5), ended(3)), finished),
	}},
	{name: "several, start: all ended with 0", ranBefore: true, code: 0, moves: []move{
		on(saw(ended(0), ended(0)), finished),
	}},
	{name: "several, start: one failed, one runs: launched, and the failure is remembered", code: 3, moves: []move{
		on(saw(ended(3), running), up, launch),
		on(saw(ended(3), ended(0)), confirming, announceStopping),
		on(saw(ended(3), ended(0)), stopping, stop),
		on(gone(143, saw(ended(3), ended(0))), finished),
	}},
	{name: "several, start: one is stale, one succeeded: waits for the stale one's next run", ranBefore: true, code: 0, moves: []move{
		on(saw(ended(3), ended(0)), up, launch),
		on(saw(running, ended(0)), up),
		on(saw(endedAnew(0), ended(0)), confirming, announceStopping),
		on(saw(endedAnew(0), ended(0)), stopping, stop),
		on(gone(143, saw(endedAnew(0), ended(0))), finished),
	}},
	{name: "several, start: one that succeeded has begun, also when a later run of it is found silent", ranBefore: true, cfg: Config{StartTimeout: time.Minute}, moves: []move{
		on(saw(ended(0), running), up, launch),
		on(saw(unverified, running), up),
		on(saw(silent, running), up),
		on(after(time.Minute, saw(silent, running)), up),
	}},
	{name: "several, start: waits until all are settled", moves: []move{
		on(saw(notStarted, unsettled), starting),
		on(saw(notStarted, notStarted), up, launch),
	}},
	{name: "several, start: a main that begins and fails while another is not settled is not stale", ranBefore: true, moves: []move{
		on(saw(running, unsettled), starting),
		on(saw(ended(3), unsettled), starting),
		on(saw(ended(3), running), up, launch),
		on(saw(ended(3), ended(0)), confirming, announceStopping),
	}},
	{name: "several: all at the same look: one that failed may be back when the other ends", code: 0, moves: []move{
		on(saw(running, running), up, launch),
		on(saw(ended(3), running), up),
		on(saw(nextRunning, ended(0)), up),
		on(saw(endedAnew(0), ended(0)), confirming, announceStopping),
		on(saw(endedAnew(0), ended(0)), stopping, stop),
		on(gone(0, saw(endedAnew(0), ended(0))), finished),
	}},
	{name: "several: exit codes in the order of the flags, not of the ends", code: 7, moves: []move{
		on(saw(running, running), up, launch),
		on(saw(running, ended(3)), up),
		on(saw(ended(7), ended(3)), confirming, announceStopping),
		on(saw(ended(7), ended(3)), stopping, stop),
		on(gone(143, saw(ended(7), ended(3))), finished),
	}},
	{name: "several: one has begun again at the confirming look: follow", moves: []move{
		on(saw(running, running), up, launch),
		on(saw(ended(3), ended(0)), confirming, announceStopping),
		on(saw(nextRunning, ended(0)), up, retractStopping),
	}},
	{name: "several: one is about to begin at the confirming look: the code stays", code: 3, moves: []move{
		on(saw(running, running), up, launch),
		on(saw(ended(3), ended(0)), confirming, announceStopping),
		on(saw(notStarted, ended(0)), stopping, stop),
		on(gone(143, saw(notStarted, ended(0))), finished),
	}},
	{name: "several: the sidecar ends while one main runs: its own code", code: 5, why: sidecarEnded, moves: []move{
		on(saw(running, running), up, launch),
		on(gone(5, saw(ended(0), running)), finished),
	}},
	{name: "several: one runs and one has not begun at the confirming look after a SIGTERM: held", cfg: Config{Hold: time.Second}, moves: []move{
		on(saw(notStarted, notStarted), up, launch),
		on(term(saw(notStarted, notStarted)), confirming, announceStopping),
		on(saw(running, notStarted), holding, retractStopping),
		on(saw(running, running), holding),
		on(saw(running, ended(0)), holding),
	}},
	{name: "several: no --drain after a SIGTERM while one has not begun", cfg: Config{Hold: time.Second, Drain: time.Second}, moves: []move{
		on(saw(running, notStarted), up, launch),
		on(term(saw(running, notStarted)), holding),
		on(saw(ended(0), notStarted), confirming, announceStopping),
		on(saw(ended(0), notStarted), stopping, stop),
	}},
	{name: "several: SIGTERM is held while any is running", cfg: Config{Hold: time.Second}, moves: []move{
		on(saw(running, running), up, launch),
		on(saw(ended(0), running), up),
		on(term(saw(ended(0), running)), holding),
	}},
	{name: "several: stopped by a second SIGTERM with one end unknown: the sidecar's own code", cfg: Config{Hold: time.Second}, code: 9, why: terminated, moves: []move{
		on(saw(ended(3), running), up, launch),
		on(term(saw(ended(3), running)), holding),
		on(term(saw(ended(3), running)), stopping, announceStopping, stop),
		on(gone(9, saw(ended(3), running)), finished),
	}},

	// "Main ended."
	{name: "main ended: the word, one more look, stop, main's code", code: 3, moves: []move{
		on(saw(notStarted), up, launch),
		on(saw(running), up),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(saw(ended(3)), stopping),
		on(exited(143, saw(ended(3))), stopping),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "main ended with 0: the sidecar's code is not used", code: 0, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(0)), confirming, announceStopping),
		on(saw(ended(0)), stopping, stop),
		on(gone(143, saw(ended(0))), finished),
	}},
	{name: "main ended: --drain before the stop", cfg: Config{Drain: 5 * time.Second}, wake: 7 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(after(2*time.Second, saw(ended(3))), confirming, announceStopping),
		on(after(2*time.Second, saw(ended(3))), draining),
		on(after(6*time.Second, saw(ended(3))), draining),
	}},
	{name: "main ended: --drain is over", cfg: Config{Drain: 5 * time.Second}, code: 3, moves: []move{
		on(saw(running), up, launch),
		on(after(2*time.Second, saw(ended(3))), confirming, announceStopping),
		on(after(2*time.Second, saw(ended(3))), draining),
		on(after(7*time.Second, saw(ended(3))), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "main ended: one that begins again during --drain reads the word and waits; the code stays", cfg: Config{Drain: time.Second}, code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(saw(nextRunning), draining),
		on(after(time.Second, saw(nextRunning)), stopping, stop),
		on(gone(143, saw(nextRunning)), finished),
	}},
	{name: "main ended: one that begins again during --drain, where locks are not shared, cannot read the word: follow it", cfg: Config{Drain: time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(saw(unverified), up, retractStopping),
	}},
	{name: "main ended: one that begins again during --drain, on a read-only mount, has no word to read: follow it", cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(saw(nextRunning), up, retractStopping),
	}},
	{name: "main ended: --drain on a read-only mount", cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(saw(ended(3)), draining),
	}},
	{name: "main ended: one that begins again during --drain, on a read-only mount, at the look that SIGTERM causes: stop", cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(term(saw(nextRunning)), stopping, stop),
	}},
	{name: "main ended: a later run's end at the look that shows the sidecar's during --drain: the code stays", cfg: Config{Drain: time.Second}, code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(gone(9, saw(endedAnew(4))), finished),
	}},
	{name: "main ended: lost, and the file has the identity that it had in a run that was seen after a stale end", ranBefore: true, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(running), up),
		on(saw(lost), confirming, announceStopping),
	}},
	{name: "main ended: the sidecar ends by itself during --drain: main's code", cfg: Config{Drain: time.Second}, code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(gone(1, saw(ended(3))), finished),
	}},
	{name: "main ended: touched", code: 0, moves: []move{
		on(saw(running), up, launch),
		on(saw(unsettled), up),
		on(saw(touched), confirming, announceStopping),
		on(saw(touched), stopping, stop),
		on(gone(143, saw(touched)), finished),
	}},
	{name: "main ended: unreadable is 125", code: 125, moves: []move{
		on(saw(notStarted), up, launch),
		on(saw(unreadable), confirming, announceStopping),
		on(saw(unreadable), stopping, stop),
		on(gone(143, saw(unreadable)), finished),
	}},

	// "Main lost."
	{name: "main lost: one more look, then 137", code: 137, moves: []move{
		on(saw(running), up, launch),
		on(saw(lost), confirming, announceStopping),
		on(saw(lost), stopping, stop),
		on(gone(143, saw(lost)), finished),
	}},
	{name: "main lost: the second look finds a record: its code", code: 0, moves: []move{
		on(saw(running), up, launch),
		on(saw(lost), confirming, announceStopping),
		on(saw(endedAnew(0)), stopping, stop),
		on(gone(143, saw(endedAnew(0))), finished),
	}},

	// "Main's next run has begun and its end was missed."
	{name: "missed end: no reason to stop, follow the new run", moves: []move{
		on(saw(running), up, launch),
		on(saw(nextRunning), up),
	}},

	// "Stop": begun again at the confirming look.
	{name: "begun again at the confirming look: the word is taken back, follow", code: 0, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(nextRunning), up, retractStopping),
		on(saw(nextRunning), up),
		on(saw(endedAnew(0)), confirming, announceStopping),
		on(saw(endedAnew(0)), stopping, stop),
		on(gone(143, saw(endedAnew(0))), finished),
	}},
	{name: "begun again where locks are not shared: the same", moves: []move{
		on(saw(unverified), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(beating), up, retractStopping),
	}},
	{name: "begun again, then the sidecar ends: its own code, not the old run's", code: 6, why: sidecarEnded, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(nextRunning), up, retractStopping),
		on(gone(6, saw(nextRunning)), finished),
	}},
	{name: "about to begin at the confirming look (the old end is gone): it will read the word; the code stays", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(notStarted), stopping, stop),
		on(gone(143, saw(nextRunning)), finished),
	}},
	{name: "begun again while the sidecar is being stopped: the code stays", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(saw(nextRunning), stopping),
		on(gone(143, saw(nextRunning)), finished),
	}},

	// "Sidecar ends first."
	{name: "sidecar first: its code", code: 4, why: sidecarEnded, moves: []move{
		on(saw(running), up, launch),
		on(gone(4, saw(running)), finished),
	}},
	{name: "sidecar first: 128+n for a signal", code: 139, why: sidecarEnded, moves: []move{
		on(saw(notStarted), up, launch),
		on(gone(139, saw(notStarted)), finished),
	}},
	{name: "sidecar first: with 0", code: 0, why: sidecarEnded, moves: []move{
		on(saw(running), up, launch),
		on(gone(0, saw(running)), finished),
	}},
	{name: "sidecar first: what it leaves behind is stopped, its code stays", code: 4, why: sidecarEnded, moves: []move{
		on(saw(running), up, launch),
		on(exited(4, saw(running)), stopping, announceStopping, stop),
		on(exited(4, saw(ended(3))), stopping),
		on(gone(4, saw(ended(3))), finished),
	}},
	{name: "sidecar first: main's end is known by then: main's code", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(gone(4, saw(ended(3))), finished),
	}},
	{name: "sidecar first: while a main's failure is stale: its own code", ranBefore: true, code: 4, why: sidecarEnded, moves: []move{
		on(saw(ended(3)), up, launch),
		on(gone(4, saw(ended(3))), finished),
	}},
	{name: "sidecar first: at the confirming look: main's code", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(gone(4, saw(ended(3))), finished),
	}},

	// "SIGTERM."
	{name: "hold: SIGTERM while main is running", cfg: Config{Hold: 15 * time.Second}, wake: 16 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(after(time.Second, term(saw(running))), holding),
		on(after(9*time.Second, saw(running)), holding),
	}},
	{name: "hold: main ends within it: main's code", cfg: Config{Hold: 15 * time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "hold: is over: the sidecar's own code", cfg: Config{Hold: 15 * time.Second}, code: 143, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(after(15*time.Second, saw(running)), stopping, announceStopping, stop),
		on(gone(143, saw(running)), finished),
	}},
	{name: "hold: is over, and main ends while the sidecar is being stopped: main's code", cfg: Config{Hold: 15 * time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(after(15*time.Second, saw(running)), stopping, announceStopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "hold: a second SIGTERM stops at once", cfg: Config{Hold: 15 * time.Second, Drain: time.Second}, code: 143, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(term(saw(running)), stopping, announceStopping, stop),
		on(gone(143, saw(running)), finished),
	}},
	{name: "hold: main is lost within it", cfg: Config{Hold: 15 * time.Second}, code: 137, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(saw(lost), confirming, announceStopping),
		on(saw(lost), stopping, stop),
		on(gone(143, saw(lost)), finished),
	}},
	{name: "hold: the sidecar ends within it: its own code", cfg: Config{Hold: 15 * time.Second}, code: 2, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(gone(2, saw(running)), finished),
	}},
	{name: "hold: main and the sidecar end at the same look: main's code", cfg: Config{Hold: 15 * time.Second}, code: 3, why: mainEnded, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(gone(0, saw(ended(3))), finished),
	}},
	{name: "hold: main begins again at the confirming look: held on, no longer than before", cfg: Config{Hold: 15 * time.Second}, wake: 15 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(after(4*time.Second, saw(ended(3))), confirming, announceStopping),
		on(after(4*time.Second, saw(nextRunning)), holding, retractStopping),
	}},
	{name: "hold: a --drain fits into it", cfg: Config{Hold: 15 * time.Second, Drain: 5 * time.Second}, wake: 9 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(after(4*time.Second, saw(ended(0))), confirming, announceStopping),
		on(after(4*time.Second, saw(ended(0))), draining),
	}},
	{name: "hold: a --drain is cut off at its end", cfg: Config{Hold: 15 * time.Second, Drain: 5 * time.Second}, wake: 15 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(after(12*time.Second, saw(ended(0))), confirming, announceStopping),
		on(after(12*time.Second, saw(ended(0))), draining),
	}},
	{name: "hold: one that begins again during the --drain does not prolong it", cfg: Config{Hold: 15 * time.Second, Drain: 5 * time.Second}, wake: 9 * time.Second, moves: []move{
		on(saw(running), up, launch),
		on(after(time.Second, term(saw(running))), holding),
		on(after(4*time.Second, saw(ended(0))), confirming, announceStopping),
		on(after(4*time.Second, saw(ended(0))), draining),
		on(after(5*time.Second, saw(unverified)), draining),
	}},
	{name: "hold: also at a look without news of main", cfg: Config{Hold: 15 * time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(unsettled)), holding),
	}},
	{name: "hold 0s: SIGTERM stops at once", cfg: Config{Drain: time.Second}, code: 143, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), confirming, announceStopping),
		on(saw(running), stopping, stop),
		on(gone(143, saw(running)), finished),
	}},
	{name: "SIGTERM while draining: stop at once", cfg: Config{Drain: time.Minute, Hold: time.Second}, code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), draining),
		on(term(saw(ended(3))), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "SIGTERM at the look that shows main's end: stop at once, main's code", cfg: Config{Drain: time.Minute, Hold: time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(ended(3))), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "SIGTERM, main not started: stop at once, the sidecar's code", cfg: Config{Hold: time.Second}, code: 143, why: terminated, moves: []move{
		on(saw(notStarted), up, launch),
		on(term(saw(notStarted)), confirming, announceStopping),
		on(saw(notStarted), stopping, stop),
		on(gone(143, saw(notStarted)), finished),
	}},
	{name: "SIGTERM, main not started but running at the confirming look: held", cfg: Config{Hold: time.Second}, wake: 3 * time.Second, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(2*time.Second, term(saw(notStarted))), confirming, announceStopping),
		on(after(2*time.Second, saw(running)), holding, retractStopping),
	}},
	{name: "SIGTERM, running only at the confirming look: a --drain fits into that hold too", cfg: Config{Hold: 10 * time.Second, Drain: 5 * time.Second}, wake: 12 * time.Second, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(2*time.Second, term(saw(notStarted))), confirming, announceStopping),
		on(after(2*time.Second, saw(running)), holding, retractStopping),
		on(after(9*time.Second, saw(ended(0))), confirming, announceStopping),
		on(after(9*time.Second, saw(ended(0))), draining),
	}},
	{name: "hold: main is unverified, for it may be working", cfg: Config{Hold: time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(unverified), up, launch),
		on(term(saw(unverified)), holding),
		on(saw(beating), holding),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "hold: main is unverified and stays so: it is over", cfg: Config{Hold: time.Second}, moves: []move{
		on(saw(unverified), up, launch),
		on(term(saw(unverified)), holding),
		on(after(time.Second, saw(unverified)), stopping, announceStopping, stop),
	}},
	{name: "hold: an unverified main turns out to have been dead", cfg: Config{Hold: time.Second}, code: 137, why: terminated, moves: []move{
		on(saw(unverified), up, launch),
		on(term(saw(unverified)), holding),
		on(saw(silent), confirming, announceStopping),
		on(saw(silent), stopping, stop),
		on(gone(143, saw(silent)), finished),
	}},
	{name: "SIGTERM, unverified only at the confirming look: held", cfg: Config{Hold: time.Second}, wake: 3 * time.Second, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(2*time.Second, term(saw(notStarted))), confirming, announceStopping),
		on(after(2*time.Second, saw(unverified)), holding, retractStopping),
	}},
	{name: "SIGTERM, main's failure is stale: stop at once, the sidecar's code", cfg: Config{Hold: time.Second}, ranBefore: true, code: 143, why: terminated, moves: []move{
		on(saw(ended(3)), up, launch),
		on(term(saw(ended(3))), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "SIGTERM while stopping changes nothing", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(term(saw(ended(3))), stopping),
		on(gone(143, saw(ended(3))), finished),
	}},

	// "Main does not begin."
	{name: "warnings after 10 s and 1 min", wake: 10 * time.Minute, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
		on(after(59*time.Second, saw(notStarted)), up),
		on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
		on(after(time.Minute, saw(notStarted)), up),
	}},
	{name: "warnings after 10 min and 1 h, and no more", moves: []move{
		on(saw(notStarted), up, launch),
		on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
		on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
		on(after(10*time.Minute, saw(notStarted)), up, warnNotBegun),
		on(after(time.Hour, saw(notStarted)), up, warnNotBegun),
		on(after(100*time.Hour, saw(notStarted)), up),
	}},
	{name: "no warning once main has begun", moves: []move{
		on(saw(running), up, launch),
		on(after(time.Minute, saw(running)), up),
	}},
	{name: "warning: a stale end is no beginning", ranBefore: true, moves: []move{
		on(saw(ended(3)), up, launch),
		on(after(time.Minute, saw(ended(3))), up, warnNotBegun),
	}},
	{name: "warning: one of several mains has not begun", moves: []move{
		on(saw(running, notStarted), up, launch),
		on(after(time.Minute, saw(running, notStarted)), up, warnNotBegun),
	}},
	{name: "--start-timeout: stop, 124", cfg: Config{StartTimeout: 30 * time.Second}, code: 124, why: startTimedOut, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(29*time.Second, saw(notStarted)), up, warnNotBegun),
		on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
		on(after(30*time.Second, saw(notStarted)), stopping, stop),
		on(gone(0, saw(running)), finished),
	}},
	{name: "--start-timeout comes before the first warning", cfg: Config{StartTimeout: 5 * time.Second}, wake: 5 * time.Second, moves: []move{
		on(saw(notStarted), up, launch),
	}},
	{name: "--start-timeout comes after the second warning", cfg: Config{StartTimeout: 5 * time.Minute}, wake: 5 * time.Minute, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
		on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
	}},
	{name: "--start-timeout comes after the last warning", cfg: Config{StartTimeout: 2 * time.Hour}, wake: 2 * time.Hour, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
		on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
		on(after(10*time.Minute, saw(notStarted)), up, warnNotBegun),
		on(after(time.Hour, saw(notStarted)), up, warnNotBegun),
	}},
	{name: "--start-timeout: a run that was seen was a beginning, whatever becomes of its file", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(running), up, launch),
		on(after(30*time.Second, saw(notStarted)), up),
	}},
	{name: "--start-timeout: main has begun by the confirming look: go on", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
		on(after(30*time.Second, saw(running)), up, retractStopping),
		on(after(31*time.Second, saw(running)), up),
	}},
	{name: "--start-timeout: main has begun and ended by the confirming look: its end counts", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
		on(after(30*time.Second, saw(ended(0))), up, retractStopping),
		on(after(31*time.Second, saw(ended(0))), confirming, announceStopping),
	}},
	{name: "--start-timeout: main has begun in time and was seen", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(notStarted), up, launch),
		on(after(29*time.Second, saw(unverified)), up),
		on(after(31*time.Second, saw(unverified)), up),
	}},
	{name: "--start-timeout: a failure that is kept was a beginning", cfg: Config{StartTimeout: 30 * time.Second, KeepOnFailure: true}, moves: []move{
		on(saw(running), up, launch),
		on(after(29*time.Second, saw(ended(3))), up),
		on(after(30*time.Second, saw(notStarted)), up),
	}},
	{name: "--start-timeout: a stale end is no beginning", cfg: Config{StartTimeout: 30 * time.Second}, ranBefore: true, code: 124, why: startTimedOut, moves: []move{
		on(saw(ended(3)), up, launch),
		on(after(30*time.Second, saw(ended(3))), confirming, announceStopping),
		on(after(30*time.Second, saw(ended(3))), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "--start-timeout: a run that turns out to have been dead before is no beginning", cfg: Config{StartTimeout: 30 * time.Second}, ranBefore: true, moves: []move{
		on(saw(unverified), up, launch),
		on(after(60*time.Second, saw(silent)), confirming, announceStopping),
	}},
	{name: "--start-timeout: every main has to begin", cfg: Config{StartTimeout: 30 * time.Second}, wake: 30 * time.Second, moves: []move{
		on(saw(running, notStarted), up, launch),
		on(after(10*time.Second, saw(running, notStarted)), up, warnNotBegun),
	}},
	{name: "--start-timeout: one main of two has not begun", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(running, notStarted), up, launch),
		on(after(30*time.Second, saw(ended(0), notStarted)), confirming, announceStopping),
		on(after(30*time.Second, saw(ended(0), notStarted)), stopping, stop),
	}},

	// "--keep-on-failure."
	{name: "keep: a failure does not stop the sidecar, the success of a later attempt does", cfg: Config{KeepOnFailure: true}, code: 0, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), up),
		on(saw(notStarted), up),
		on(saw(nextRunning), up),
		on(saw(endedAnew(0)), confirming, announceStopping),
		on(saw(endedAnew(0)), stopping, stop),
		on(gone(143, saw(endedAnew(0))), finished),
	}},
	{name: "keep: nor does a lost main", cfg: Config{KeepOnFailure: true}, moves: []move{
		on(saw(running), up, launch),
		on(saw(lost), up),
		on(saw(lost), up),
	}},
	{name: "keep: nor an end that cannot be read", cfg: Config{KeepOnFailure: true}, moves: []move{
		on(saw(running), up, launch),
		on(saw(unreadable), up),
	}},
	{name: "keep: SIGTERM between two attempts stops at once, with the failure's code", cfg: Config{KeepOnFailure: true, Hold: time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), up),
		on(term(saw(ended(3))), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "keep: a failure within --hold ends it", cfg: Config{KeepOnFailure: true, Hold: time.Second}, code: 3, why: terminated, moves: []move{
		on(saw(running), up, launch),
		on(term(saw(running)), holding),
		on(saw(ended(3)), confirming, announceStopping),
		on(saw(ended(3)), stopping, stop),
		on(gone(143, saw(ended(3))), finished),
	}},
	{name: "keep: the sidecar ends between two attempts: its own code", cfg: Config{KeepOnFailure: true}, code: 5, why: sidecarEnded, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), up),
		on(gone(5, saw(ended(3))), finished),
	}},
	{name: "keep, several: one success and one failure: waits for the other's success", cfg: Config{KeepOnFailure: true}, moves: []move{
		on(saw(running, running), up, launch),
		on(saw(ended(0), ended(3)), up),
		on(saw(ended(0), nextRunning), up),
		on(saw(ended(0), endedAnew(0)), confirming, announceStopping),
	}},
}

func TestRules(t *testing.T) {
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			r := row.cfg.rules(row.ranBefore)
			r.cannotAnnounce = row.cannotAnnounce
			s := newState(len(row.moves[0].mains))
			for i, m := range row.moves {
				var do []action
				s, do = r.next(s, m.event)
				if s.phase != m.then || !slices.Equal(do, m.do) {
					t.Fatalf("move %d: got to %v, doing %v, not to %v, doing %v", i+1, s.phase, do, m.then, m.do)
				}
			}
			if s.phase == finished && (!s.exit.decided || s.exit.code != row.code) {
				t.Fatalf("the exit code is %d (decided: %v), not %d", s.exit.code, s.exit.decided, row.code)
			}
			if s.phase == finished && s.why != row.why {
				t.Fatalf("the reason is %v, not %v", s.why, row.why)
			}
			if row.wake != 0 && r.wakeAt(s) != row.wake {
				t.Fatalf("the rules want to be asked again at %v, not at %v", r.wakeAt(s), row.wake)
			}
		})
	}
}

// TestWake: when the rules want to be asked again while the sidecar runs.
func TestWake(t *testing.T) {
	begun, missing := mainState{State: running, begun: true}, mainState{State: notStarted}
	for _, c := range []struct {
		name         string
		startTimeout time.Duration
		main         mainState
		warned       int
		want         time.Duration
	}{
		{"main has begun", time.Minute, begun, 0, 0},
		{"a warning is next", 0, missing, 0, 10 * time.Second},
		{"the next warning", 0, missing, 1, time.Minute},
		{"all warnings are given", 0, missing, 4, 0},
		{"--start-timeout is next", 5 * time.Second, missing, 0, 5 * time.Second},
		{"a warning before --start-timeout", 30 * time.Second, missing, 0, 10 * time.Second},
		{"--start-timeout after all warnings", 2 * time.Hour, missing, 4, 2 * time.Hour},
	} {
		r := Config{StartTimeout: c.startTimeout}.rules(false)
		if got := r.wakeAt(state{phase: up, mains: []mainState{c.main}, warned: c.warned}); got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
	if got := (rules{}).wakeAt(state{phase: stopping, drainUntil: time.Minute}); got != 0 {
		t.Errorf("while the sidecar is being stopped: %s, not 0", got)
	}
}

// world performs the actions of the rules, and records what contradicts the design.
type world struct {
	rules     rules
	s         state
	now       time.Duration
	launched  bool
	stopped   bool
	announced bool // "stopping" is on the volume
	sidecar   sidecar
	status    int // its exit code, once it has ended
	trouble   string
}

type sidecar int

const (
	alive   sidecar = iota // if it was launched
	leaving                // it has ended and has left processes behind
	away                   // nothing of it is left
)

// object records the first contradiction.
func (w *world) object(format string, args ...any) {
	if w.trouble == "" {
		w.trouble = fmt.Sprintf(format, args...)
	}
}

// end ends the sidecar this far, if it was launched and has not ended so far before.
func (w *world) end(how sidecar, status int) {
	if !w.launched || how <= w.sidecar {
		return
	}
	if w.sidecar == alive {
		w.status = status
	}
	w.sidecar = how
}

// play gives the rules an event with these mains and with the sidecar as it is.
func (w *world) play(term bool, mains ...lifetime.State) {
	before := w.s.phase
	e := event{at: w.now, mains: mains, term: term && before != confirming, status: 137}
	if w.sidecar != alive {
		e.exited, e.status, e.gone = true, w.status, w.sidecar == away
	}
	next, do := w.rules.next(w.s, e)
	w.s = next
	for _, a := range do {
		switch a {
		case launch:
			if w.launched || before != starting {
				w.object("launched at phase %v (launched before: %v)", before, w.launched)
			}
			w.launched = true
		case stop:
			if w.stopped || !w.launched || !w.announced {
				w.object("stop: launched %v, stopped before %v, \"stopping\" is on the volume %v", w.launched, w.stopped, w.announced)
			}
			w.stopped = true
		case announceStopping:
			w.announced = true
		case retractStopping:
			if !w.announced || w.stopped {
				w.object("\"stopping\" is retracted: it is on the volume %v, stopped %v", w.announced, w.stopped)
			}
			w.announced = false
		}
	}
	word := slices.Contains([]phase{confirming, draining, stopping}, w.s.phase)
	if w.s.phase != finished && word != w.announced {
		w.object("at phase %v the volume says stopping: %v", w.s.phase, w.announced)
	}
	if w.s.phase == stopping && !w.stopped {
		w.object("at phase stopping, the sidecar was not stopped")
	}
	if w.s.phase == finished {
		w.checkEnd(e)
	}
}

// checkEnd checks the exit code.
func (w *world) checkEnd(e event) {
	if !w.s.exit.decided {
		w.object("finished without an exit code")
	}
	if w.launched && !e.gone {
		w.object("finished while something of the sidecar was left")
	}
	ended := func(m mainState) bool { return m.Phase == lifetime.Ended && m.Code == 0 && !m.stale }
	mains := len(w.s.exit.mains) > 0 && !slices.ContainsFunc(w.s.exit.mains, func(m mainState) bool { return !ended(m) })
	if w.s.exit.code == 0 && !mains && (!e.exited || e.status != 0) {
		w.object("exit code 0, but the mains are %+v and the sidecar's code is %d", w.s.exit.mains, e.status)
	}
}

// distinctStates are all states of a main that the rules distinguish.
var distinctStates = []lifetime.State{notStarted, unsettled, running, unverified, lost, silent, unreadable, ended(3), endedAnew(0)}

// allRules returns the rules for every combination of these flags.
func allRules() (all []rules) {
	for _, cfg := range []Config{{RestartPolicy: Never}, {RestartPolicy: OnFailure}, {KeepOnFailure: true}} {
		for _, cfg.Drain = range []time.Duration{0, 5 * time.Second} {
			for _, cfg.Hold = range []time.Duration{0, 15 * time.Second} {
				for _, cfg.StartTimeout = range []time.Duration{0, 30 * time.Second} {
					all = append(all, cfg.rules(false))
				}
			}
		}
	}
	return all
}

// worldKey identifies a state of a world of one main, independent of the time.
type worldKey struct {
	sidecar      sidecar
	phase        phase
	why          reason
	decided      bool
	status, code int
	warned       int
	hold, drain  time.Duration // that are left
	wake         time.Duration
	main, end    mainState
}

func (w *world) key() worldKey {
	s := w.s
	at := worldKey{
		sidecar: w.sidecar, phase: s.phase, why: s.why, decided: s.exit.decided,
		status: w.status, code: s.exit.code, warned: s.warned, main: s.mains[0],
	}
	if s.holdUntil > 0 {
		at.hold = s.holdUntil - w.now
	}
	if s.phase == draining {
		at.drain = s.drainUntil - w.now
	}
	if wake := w.rules.wakeAt(s); wake > 0 {
		at.wake = wake - w.now
	}
	if len(s.exit.mains) > 0 {
		at.end = s.exit.mains[0]
	}
	return at
}

// TestEveryPath plays all events of a shim of one main, in every order, and checks every path.
func TestEveryPath(t *testing.T) {
	for _, r := range allRules() {
		t.Run(fmt.Sprintf("%+v", r), func(t *testing.T) {
			t.Parallel()
			seen := make(map[worldKey]bool)
			for todo := []world{{rules: r, s: newState(1)}}; len(todo) > 0; {
				w := todo[len(todo)-1]
				todo = todo[:len(todo)-1]
				if w.s.phase == finished || seen[w.key()] {
					continue
				}
				seen[w.key()] = true
				checkTermination(t, w)
				for _, then := range successors(w) {
					if then.trouble != "" {
						t.Fatalf("from %+v to %+v: %s", w.s, then.s, then.trouble)
					}
					todo = append(todo, then)
				}
			}
			if len(seen) < 100 {
				t.Fatalf("only %d states were found", len(seen))
			}
		})
	}
}

// successors returns all worlds that one event can lead to.
func successors(w world) (worlds []world) {
	clocks := []time.Duration{w.now}
	if at := w.rules.wakeAt(w.s); at > w.now {
		clocks = append(clocks, at)
	}
	sidecars := []world{w}
	for how := w.sidecar + 1; w.launched && how <= away; how++ {
		for _, status := range []int{0, 9} {
			ended := w
			ended.end(how, status)
			sidecars = append(sidecars, ended)
		}
	}
	for _, then := range sidecars {
		for _, then.now = range clocks {
			for _, main := range distinctStates {
				for _, term := range []bool{false, true} {
					then := then
					then.play(term, main)
					worlds = append(worlds, then)
				}
			}
		}
	}
	return worlds
}

// checkTermination checks that the shim ends from this state when it must.
func checkTermination(t *testing.T, w world) {
	t.Helper()
	mains := len(w.s.mains)
	succeed := slices.Repeat([]lifetime.State{endedAnew(0)}, mains)
	runOn := slices.Repeat([]lifetime.State{running}, mains)
	free := !w.s.exit.decided && w.s.why != terminated && w.sidecar == alive

	end := w.playOut(t, "the mains succeed", func(w *world, _ int) { w.play(false, succeed...) })
	if free && end.s.exit.code != 0 {
		t.Fatalf("from %+v: the mains succeed, but the exit code is %d", w.s, end.s.exit.code)
	}
	w.playOut(t, "the sidecar ends", func(w *world, _ int) {
		w.end(away, 5)
		w.play(false, runOn...)
	})
	w.playOut(t, "SIGTERM comes twice, the mains run on", func(w *world, i int) { w.play(i < 4, runOn...) })
	w.playOut(t, "SIGTERM comes, the mains run on, time goes by", func(w *world, _ int) {
		w.play(w.s.phase == up || w.s.phase == starting, runOn...)
	})
}

// playOut repeats an event until the shim ends. Meanwhile a stopped sidecar ends, and time passes.
func (w world) playOut(t *testing.T, what string, play func(w *world, i int)) world {
	t.Helper()
	from := w.s
	for i := 0; w.s.phase != finished; i++ {
		if i == 12 {
			t.Fatalf("from %+v: %s, but the shim does not end: %+v", from, what, w.s)
		}
		if w.stopped {
			w.end(away, 143)
		}
		play(&w, i)
		if at := w.rules.wakeAt(w.s); at > 0 {
			w.now = at
		}
	}
	if w.trouble != "" {
		t.Fatalf("from %+v: %s: %s", from, what, w.trouble)
	}
	return w
}

// TestRandomWalks is TestEveryPath for several mains, at random: there are too many paths to try all.
func TestRandomWalks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := allRules()
	for walk := range 10_000 {
		w := world{rules: all[walk%len(all)], s: newState(2 + rng.IntN(2))}
		var path []world
		for range 30 {
			if w.s.phase == finished {
				break
			}
			mains := make([]lifetime.State, len(w.s.mains))
			for i := range mains {
				mains[i] = distinctStates[rng.IntN(len(distinctStates))]
			}
			if w.stopped && rng.IntN(3) == 0 || rng.IntN(30) == 0 {
				w.end(1+sidecar(rng.IntN(2)), []int{0, 9}[rng.IntN(2)])
			}
			if at := w.rules.wakeAt(w.s); at > 0 && rng.IntN(5) == 0 {
				w.now = at
			}
			w.play(rng.IntN(10) == 0, mains...)
			path = append(path, w)
			if w.trouble != "" {
				for _, w := range path {
					t.Logf("%+v", w.s)
				}
				t.Fatalf("walk %d, rules %+v: %s", walk, w.rules, w.trouble)
			}
		}
		checkTermination(t, w)
	}
}
