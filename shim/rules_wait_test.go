package shim

import "time"

// What the rules do while main has not begun or comes back: warnings, --start-timeout and --keep-on-failure
// (design, 4.2).

var scenariosNotBegun = []scenario{
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
	{name: "--start-timeout: stop, 124",
		cfg: Config{StartTimeout: 30 * time.Second}, code: 124, why: startTimedOut, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(29*time.Second, saw(notStarted)), up, warnNotBegun),
			on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
			on(after(30*time.Second, saw(notStarted)), stopping, stop),
			on(gone(0, saw(running)), finished),
		}},
	{name: "--start-timeout comes before the first warning",
		cfg: Config{StartTimeout: 5 * time.Second}, wake: 5 * time.Second, moves: []move{
			on(saw(notStarted), up, launch),
		}},
	{name: "--start-timeout comes after the second warning",
		cfg: Config{StartTimeout: 5 * time.Minute}, wake: 5 * time.Minute, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
			on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
		}},
	{name: "--start-timeout comes after the last warning",
		cfg: Config{StartTimeout: 2 * time.Hour}, wake: 2 * time.Hour, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(10*time.Second, saw(notStarted)), up, warnNotBegun),
			on(after(time.Minute, saw(notStarted)), up, warnNotBegun),
			on(after(10*time.Minute, saw(notStarted)), up, warnNotBegun),
			on(after(time.Hour, saw(notStarted)), up, warnNotBegun),
		}},
	{name: "--start-timeout: a run that was seen was a beginning, whatever becomes of its file",
		cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
			on(saw(running), up, launch),
			on(after(30*time.Second, saw(notStarted)), up),
		}},
	{name: "--start-timeout: main has begun by the confirming look: go on",
		cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
			on(after(30*time.Second, saw(running)), up, retractStopping),
			on(after(31*time.Second, saw(running)), up),
		}},
	{name: "--start-timeout: main has begun and ended by the confirming look: its end counts",
		cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(30*time.Second, saw(notStarted)), confirming, announceStopping),
			on(after(30*time.Second, saw(ended(0))), up, retractStopping),
			on(after(31*time.Second, saw(ended(0))), confirming, announceStopping),
		}},
	{name: "--start-timeout: main has begun in time and was seen",
		cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
			on(saw(notStarted), up, launch),
			on(after(29*time.Second, saw(unverified)), up),
			on(after(31*time.Second, saw(unverified)), up),
		}},
	{name: "--start-timeout: a failure that is kept was a beginning",
		cfg: Config{StartTimeout: 30 * time.Second, KeepOnFailure: true}, moves: []move{
			on(saw(running), up, launch),
			on(after(29*time.Second, saw(ended(3))), up),
			on(after(30*time.Second, saw(notStarted)), up),
		}},
	{name: "--start-timeout: a stale end is no beginning",
		cfg: Config{StartTimeout: 30 * time.Second}, ranBefore: true, code: 124, why: startTimedOut, moves: []move{
			on(saw(ended(3)), up, launch),
			on(after(30*time.Second, saw(ended(3))), confirming, announceStopping),
			on(after(30*time.Second, saw(ended(3))), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
	{name: "--start-timeout: a run that turns out to have been dead before is no beginning",
		cfg: Config{StartTimeout: 30 * time.Second}, ranBefore: true, moves: []move{
			on(saw(unverified), up, launch),
			on(after(60*time.Second, saw(silent)), confirming, announceStopping),
		}},
	{name: "--start-timeout: every main has to begin",
		cfg: Config{StartTimeout: 30 * time.Second}, wake: 30 * time.Second, moves: []move{
			on(saw(running, notStarted), up, launch),
			on(after(10*time.Second, saw(running, notStarted)), up, warnNotBegun),
		}},
	{name: "--start-timeout: one main of two has not begun", cfg: Config{StartTimeout: 30 * time.Second}, moves: []move{
		on(saw(running, notStarted), up, launch),
		on(after(30*time.Second, saw(ended(0), notStarted)), confirming, announceStopping),
		on(after(30*time.Second, saw(ended(0), notStarted)), stopping, stop),
	}},
}

var scenariosKept = []scenario{
	{name: "keep: a failure does not stop the sidecar, the success of a later attempt does",
		cfg: Config{KeepOnFailure: true}, code: 0, moves: []move{
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
	{name: "keep: SIGTERM between two attempts stops at once, with the failure's code",
		cfg: Config{KeepOnFailure: true, Hold: time.Second}, code: 3, why: terminated, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), up),
			on(term(saw(ended(3))), confirming, announceStopping),
			on(saw(ended(3)), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
	{name: "keep: a failure within --hold ends it",
		cfg: Config{KeepOnFailure: true, Hold: time.Second}, code: 3, why: terminated, moves: []move{
			on(saw(running), up, launch),
			on(term(saw(running)), holding),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
	{name: "keep: the sidecar ends between two attempts: its own code",
		cfg: Config{KeepOnFailure: true}, code: 5, why: sidecarEnded, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), up),
			on(gone(5, saw(ended(3))), finished),
		}},
	{name: "keep, several: one success and one failure: waits for the other's success",
		cfg: Config{KeepOnFailure: true}, moves: []move{
			on(saw(running, running), up, launch),
			on(saw(ended(0), ended(3)), up),
			on(saw(ended(0), nextRunning), up),
			on(saw(ended(0), endedAnew(0)), confirming, announceStopping),
		}},
}
