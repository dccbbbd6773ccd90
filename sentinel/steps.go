package sentinel

// Step is a step of a sentinel (design, 3).
type Step int

// The steps, in their order.
const (
	Begin         Step = iota // the run begins on the volume
	AwaitSidecars             // the restart barrier: the sidecars of an earlier run end
	AwaitTargets              // the addresses of --wait-for answer
	Launch                    // the command starts
	Supervise                 // the command runs
	End                       // the exit code is recorded on the volume
	Exit                      // nothing is left to do
)

// Actions perform the steps: those of [Run] act on the volume and the command, those of the
// simulation in package shim's tests on a simulated pod. An error means that the command must
// not start.
type Actions struct {
	// Begin reports whether there was an earlier run of this name.
	Begin func() (restarted bool, err error)
	// AwaitSidecars is called until it is done or fails.
	AwaitSidecars func() (done bool, err error)
	AwaitTargets  func() error
	Launch        func() error
	// Supervise returns the command's exit code, 0 to 255.
	Supervise func() (code int)
	// NotStarted returns the exit code, 0 to 255, for an error of any step before Supervise.
	NotStarted func(error) (code int)
	End        func(code int)
}

// Progress is how far a sentinel has come. The zero value is the start.
type Progress struct {
	Step Step // the step to do next
	Code int  // the exit code, valid from End on
}

// Next does one step and returns the progress after it. Every path leads through End, so
// that no shim waits for a command that never starts.
func (p Progress) Next(a Actions) Progress {
	var err error
	next := p.Step + 1
	switch p.Step {
	case Begin:
		var restarted bool
		if restarted, err = a.Begin(); !restarted {
			next = AwaitTargets
		}
	case AwaitSidecars:
		var done bool
		if done, err = a.AwaitSidecars(); !done {
			next = AwaitSidecars
		}
	case AwaitTargets:
		err = a.AwaitTargets()
	case Launch:
		err = a.Launch()
	case Supervise:
		p.Code = a.Supervise()
	case End:
		a.End(p.Code)
	case Exit:
		return p
	}
	if err != nil {
		return Progress{End, a.NotStarted(err)}
	}
	return Progress{next, p.Code}
}
