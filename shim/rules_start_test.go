package shim

import "time"

// What the rules do with what they find at the start (design, 4.1).

// scenariosAtStart are the table of design, 4.1.
var scenariosAtStart = []scenario{
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
	{name: "start: unverified, has run before: launched",
		ranBefore: true, moves: []move{on(saw(unverified), up, launch)}},
	{name: "start: not started: launched", moves: []move{on(saw(notStarted), up, launch)}},
	{name: "start: not started, has run before: launched",
		ranBefore: true, moves: []move{on(saw(notStarted), up, launch)}},
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
}

// scenariosFoundDead: an unverified run becomes lost without one sign of life.
var scenariosFoundDead = []scenario{
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
}

// scenariosWithPolicy: --restart-policy decides instead.
var scenariosWithPolicy = []scenario{
	{name: "policy: OnFailure, never run before: stale", cfg: Config{RestartPolicy: OnFailure}, moves: []move{
		on(saw(ended(3)), up, launch),
		on(saw(ended(3)), up),
	}},
	{name: "policy: OnFailure, ended with 0: not launched",
		cfg: Config{RestartPolicy: OnFailure}, code: 0, moves: []move{
			on(saw(ended(0)), finished),
		}},
	{name: "policy: Never, has run before: final",
		cfg: Config{RestartPolicy: Never}, ranBefore: true, code: 3, moves: []move{
			on(saw(ended(3)), finished),
		}},
	{name: "policy: --keep-on-failure implies OnFailure: the code is not the stale end's",
		cfg: Config{KeepOnFailure: true}, code: 143, why: terminated, moves: []move{
			on(saw(ended(3)), up, launch),
			on(saw(ended(3)), up),
			on(term(saw(ended(3))), confirming, announceStopping),
			on(saw(ended(3)), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
}

// scenariosWithSeveralMains: the shim follows more than one main.
var scenariosWithSeveralMains = []scenario{
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
	{name: "several, start: one is stale, one succeeded: waits for the stale one's next run",
		ranBefore: true, code: 0, moves: []move{
			on(saw(ended(3), ended(0)), up, launch),
			on(saw(running, ended(0)), up),
			on(saw(endedAnew(0), ended(0)), confirming, announceStopping),
			on(saw(endedAnew(0), ended(0)), stopping, stop),
			on(gone(143, saw(endedAnew(0), ended(0))), finished),
		}},
	{name: "several, start: one that succeeded has begun, also when a later run of it is found silent",
		ranBefore: true, cfg: Config{StartTimeout: time.Minute}, moves: []move{
			on(saw(ended(0), running), up, launch),
			on(saw(unverified, running), up),
			on(saw(silent, running), up),
			on(after(time.Minute, saw(silent, running)), up),
		}},
	{name: "several, start: waits until all are settled", moves: []move{
		on(saw(notStarted, unsettled), starting),
		on(saw(notStarted, notStarted), up, launch),
	}},
	{name: "several, start: a main that begins and fails while another is not settled is not stale",
		ranBefore: true, moves: []move{
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
	{name: "several: one runs and one has not begun at the confirming look after a SIGTERM: held",
		cfg: Config{Hold: time.Second}, moves: []move{
			on(saw(notStarted, notStarted), up, launch),
			on(term(saw(notStarted, notStarted)), confirming, announceStopping),
			on(saw(running, notStarted), holding, retractStopping),
			on(saw(running, running), holding),
			on(saw(running, ended(0)), holding),
		}},
	{name: "several: no --drain after a SIGTERM while one has not begun",
		cfg: Config{Hold: time.Second, Drain: time.Second}, moves: []move{
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
	{name: "several: stopped by a second SIGTERM with one end unknown: the sidecar's own code",
		cfg: Config{Hold: time.Second}, code: 9, why: terminated, moves: []move{
			on(saw(ended(3), running), up, launch),
			on(term(saw(ended(3), running)), holding),
			on(term(saw(ended(3), running)), stopping, announceStopping, stop),
			on(gone(9, saw(ended(3), running)), finished),
		}},
}
