// Command demo runs four scenes of a Kubernetes Job with the real programs: a
// sentinel and a shim, started as the kubelet would start two containers, the
// Cloud SQL Auth Proxy as the sidecar, and a temporary directory as the volume. It
// prints what happens, and exits with 1 if something is not as expected.
//
//	demo SENTINEL SHIM PROXY        run the scenes with these three binaries
//	demo main END [ADDRESS]         run as the main of a scene (see playMain)
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

// A scene is one life of the pod.
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
Auth Proxy; sentinel wraps main. No database is behind the proxy, so it logs
"failed to connect to instance" for each connection. Times are since the start of
the scene.

`

// programs are the paths of the binaries. main is this program.
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
		// As a subreaper, this process becomes the parent of orphans, so
		// killChildren can find them.
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	// Ctrl-C ends the scene, which also removes its processes and its volume.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !playAll(ctx, programs{sentinel: args[0], shim: args[1], proxy: args[2], main: self}) {
		return 1
	}
	return 0
}

// playMain is the main of a scene. It connects to the sidecar's address if it is
// given one, prints one line, and then ends as END says.
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

// playAll runs the scenes one after the other. It reports whether all of them
// went as expected.
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

// report prints a table of all scenes, then the output of the processes of the
// failed ones, then how many failed. It reports whether all scenes passed.
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
