package shim

import "time"

// What the rules do with a native sidecar, which the kubelet stops when no main comes back (design, 4.2).

var scenariosNative = []scenario{
	{name: "native: after a success the sidecar is kept until SIGTERM; the code is main's",
		cfg: Config{NativeSidecar: true, Hold: time.Second}, code: 0, why: terminated, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(0)), up),
			on(saw(ended(0)), up),
			on(term(saw(ended(0))), confirming, announceStopping),
			on(saw(ended(0)), stopping, stop),
			on(gone(143, saw(ended(0))), finished),
		}},
	{name: "native: SIGTERM ends it without the drain",
		cfg: Config{NativeSidecar: true, Drain: time.Minute}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(0)), up),
			on(term(saw(ended(0))), confirming, announceStopping),
			on(saw(ended(0)), stopping, stop),
		}},
	{name: "native: a failure stops the sidecar, because main comes back",
		cfg: Config{NativeSidecar: true}, code: 3, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
	{name: "native: a failure that comes back is drained",
		cfg: Config{NativeSidecar: true, Drain: time.Minute}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(ended(3)), draining),
			on(after(time.Minute, saw(ended(3))), stopping, stop),
		}},
	{name: "native: a failure under Never does not, because main does not come back",
		cfg: Config{NativeSidecar: true, RestartPolicy: Never}, code: 3, why: terminated, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), up),
			on(term(saw(ended(3))), confirming, announceStopping),
			on(saw(ended(3)), stopping, stop),
			on(gone(143, saw(ended(3))), finished),
		}},
	{name: "native: nor does a lost main under Never",
		cfg: Config{NativeSidecar: true, RestartPolicy: Never}, moves: []move{
			on(saw(running), up, launch),
			on(saw(lost), up),
		}},
	{name: "native: a success that is found at the start starts the sidecar, for it may be there for others",
		cfg: Config{NativeSidecar: true}, ranBefore: true, moves: []move{
			on(saw(ended(0)), up, launch),
			on(saw(ended(0)), up),
			on(saw(nextRunning), up),
		}},
	{name: "native: one success and one failure stop the sidecar: one main comes back",
		cfg: Config{NativeSidecar: true}, moves: []move{
			on(saw(running, running), up, launch),
			on(saw(ended(0), running), up),
			on(saw(ended(0), endedAnew(3)), confirming, announceStopping),
		}},
	{name: "native: the look after the announcement sees that main has succeeded meanwhile",
		cfg: Config{NativeSidecar: true}, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(3)), confirming, announceStopping),
			on(saw(endedAnew(0)), up, retractStopping),
		}},
	{name: "native: SIGTERM while main is running keeps the sidecar for --hold",
		cfg: Config{NativeSidecar: true, Hold: time.Minute}, code: 0, why: terminated, moves: []move{
			on(saw(running), up, launch),
			on(term(saw(running)), holding),
			on(saw(ended(0)), confirming, announceStopping),
			on(saw(ended(0)), stopping, stop),
			on(gone(143, saw(ended(0))), finished),
		}},
	{name: "native: a sidecar that ends by itself after a success ends with main's code",
		cfg: Config{NativeSidecar: true}, code: 0, moves: []move{
			on(saw(running), up, launch),
			on(saw(ended(0)), up),
			on(gone(5, saw(ended(0))), finished),
		}},
}
