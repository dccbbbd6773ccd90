package shim

import "time"

// What the rules do when a main or the sidecar ends (design, 4.2 and 4.3).

var scenariosMainEnds = []scenario{
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
	{name: "main ended: --drain before the stop",
		cfg: Config{Drain: 5 * time.Second}, wake: 7 * time.Second, moves: []move{
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
	{name: "main ended: one that begins again during --drain reads the word and waits; the code stays",
		cfg: Config{Drain: time.Second}, code: 3, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(saw(nextRunning), draining),
			on(after(time.Second, saw(nextRunning)), stopping, stop),
			on(gone(143, saw(nextRunning)), finished),
		}},
	{name: "main ended: one that begins again during --drain, where locks are not shared, cannot read the word: " +
		"follow it",
		cfg: Config{Drain: time.Second}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(saw(unverified), up, retractStopping),
		}},
	{name: "main ended: one that begins again during --drain, on a read-only mount, has no word to read: follow it",
		cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(saw(nextRunning), up, retractStopping),
		}},
	{name: "main ended: --drain on a read-only mount",
		cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(saw(ended(3)), draining),
		}},
	{name: "main ended: one that begins again during --drain, on a read-only mount, at the look that SIGTERM " +
		"causes: stop",
		cannotAnnounce: true, cfg: Config{Drain: time.Second}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(term(saw(nextRunning)), stopping, stop),
		}},
	{name: "main ended: a later run's end at the look that shows the sidecar's during --drain: the code stays",
		cfg: Config{Drain: time.Second}, code: 3, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(gone(9, saw(endedAnew(4))), finished),
		}},
	{name: "main ended: lost, and the file has the identity that it had in a run that was seen after a stale end",
		ranBefore: true, moves: []move{
			on(saw(ended(3)), up, launch),
			on(saw(running), up),
			on(saw(lost), confirming, announceStopping),
		}},
	{name: "main ended: the sidecar ends by itself during --drain: main's code",
		cfg: Config{Drain: time.Second}, code: 3, moves: []move{
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
}

var scenariosMainLost = []scenario{
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
}

// scenariosEndMissed: main's next run has begun, and no look has shown the end of the run before.
var scenariosEndMissed = []scenario{
	{name: "missed end: no reason to stop, follow the new run", moves: []move{
		on(saw(running), up, launch),
		on(saw(nextRunning), up),
	}},
}

// scenariosBegunAgain: main has begun again by the confirming look.
var scenariosBegunAgain = []scenario{
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
	{name: "begun again, then the sidecar ends: its own code, not the old run's",
		code: 6, why: sidecarEnded, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(nextRunning), up, retractStopping),
			on(gone(6, saw(nextRunning)), finished),
		}},
	{name: "about to begin at the confirming look (the old end is gone): it will read the word; the code stays",
		code: 3, moves: []move{
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
}

var scenariosSidecarFirst = []scenario{
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
	{name: "sidecar first: while a main's failure is stale: its own code",
		ranBefore: true, code: 4, why: sidecarEnded, moves: []move{
			on(saw(ended(3)), up, launch),
			on(gone(4, saw(ended(3))), finished),
		}},
	{name: "sidecar first: at the confirming look: main's code", code: 3, moves: []move{
		on(saw(running), up, launch),
		on(saw(ended(3)), confirming, announceStopping),
		on(gone(4, saw(ended(3))), finished),
	}},
}
