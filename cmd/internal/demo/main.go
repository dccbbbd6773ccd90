// Command demo plays four scenes of a Kubernetes Job with the real programs: a
// sentinel and a shim, started as the kubelet would start two containers, the
// Cloud SQL Auth Proxy as the sidecar, and a temporary directory as the volume. It
// shows what happens, and exits with 1 if something is not as expected.
//
//	demo SENTINEL SHIM PROXY        play the scenes with these three binaries
//	demo main END [ADDRESS]         be the main of a scene (see playMain)
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// limit is how long a scene may take. It takes about a second.
const limit = 60 * time.Second

// untilKilled is the END of a main that works until it is killed.
const untilKilled = "killed"

// A scene is one run of the pod.
type scene struct {
	title     string
	end       string // how main ends: an exit code, or untilKilled
	mainFirst bool   // the shim starts only when main has ended
	want      int    // the exit code of both containers
}

var scenes = []scene{
	{title: "main succeeds", end: "0", want: 0},
	{title: "main fails with 3", end: "3", want: 3},
	{title: "main and its sentinel are killed, as by the OOM killer", end: untilKilled, want: 137},
	{title: "main ends before the sidecar starts", end: "4", mainFirst: true, want: 4},
}

const introduction = `Four runs of a pod with two containers: shim wraps the sidecar, a real Cloud SQL
Auth Proxy; sentinel wraps main. No database is behind the proxy, and it says so
("failed to connect to instance") whenever its port is tried. Times are since the
start of the scene.

`

// programs are the binaries that the scenes are played with.
type programs struct{ sentinel, shim, proxy, main string }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) (code int) {
	switch {
	case len(args) > 1 && args[0] == "main":
		return playMain(args[1], args[2:])
	case len(args) != 3:
		fmt.Fprintln(os.Stderr, "usage: demo SENTINEL SHIM PROXY: the three binaries; make demo builds them")
		return 2
	}
	self, err := os.Executable()
	if err == nil {
		// What outlives its wrapper becomes a child of ours, and so can be
		// found and ended (see killChildren).
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	// Ctrl-C ends the scene, so that its processes and its volume go too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !playAll(ctx, programs{sentinel: args[0], shim: args[1], proxy: args[2], main: self}) {
		return 1
	}
	return 0
}

// playMain is the main of a scene: a command that works through the sidecar, if
// it is given the sidecar's address, and then ends as it is told. It writes one
// line when it has done its work.
func playMain(end string, addresses []string) int {
	work := "needs no sidecar"
	for _, address := range addresses {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer conn.Close()
		work = "is connected to " + address
	}
	if end == untilKilled {
		fmt.Println(work + ", works until it is killed")
		tooLate, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		<-tooLate.Done()
		return 1
	}
	code, err := strconv.Atoi(end)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%s, exits with %d\n", work, code)
	return code
}

// playAll plays the scenes one after the other and says whether all of them
// went as they should.
func playAll(ctx context.Context, bin programs) bool {
	fmt.Print(introduction)
	var results []*result
	for i, s := range scenes {
		fmt.Printf("Scene %d: %s\n\n", i+1, s.title)
		results = append(results, play(ctx, s, bin))
		fmt.Println()
		if ctx.Err() != nil {
			break
		}
	}
	return report(results)
}

// report prints a table of all scenes, then all that the processes of the
// failed ones wrote, then the closing line.
func report(results []*result) bool {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "Exit codes\texpected\tsentinel\tshim\tfrom main's end to shim's")
	var failures strings.Builder
	failed := 0
	for i, r := range results {
		verdict := "ok"
		if r.fault != nil {
			verdict = "FAILED"
			failed++
			fmt.Fprintf(&failures, "\nScene %d failed: %v.\nIts processes wrote:\n%s",
				i+1, r.fault, r.output.String())
		}
		fmt.Fprintf(table, "%d. %s\t%d\t%s\t%s\t%s\t%s\n",
			i+1, r.scene.title, r.scene.want, r.code(sentinel), r.code(shim), r.reaction(), verdict)
	}
	table.Flush()
	fmt.Print(failures.String())
	fmt.Printf("\ndemo: %d passed, %d failed\n", len(results)-failed, failed)
	return failed == 0 && len(results) == len(scenes)
}
