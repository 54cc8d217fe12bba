package pillion

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Client is an app's connection to its node, kept up: it connects, introduces the app, reconnects, declares again. It is a process
// too, the one that the node gives every app. All methods may be used by many goroutines.
type Client struct {
	// Process is the client's own. Its methods are the client's.
	*Process

	options options
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	// tasks are the goroutines of this package; Close waits for them, not for those of callbacks.
	tasks sync.WaitGroup

	// Of the goroutine that reads and reconnects.
	found, secret string
	told          *outlet
	revive        bool
	hosted        string
	session, seen uint64
	// resumedAt is the last command that the node had carried out when the session was taken up.
	resumedAt uint64

	// program is what [Run] made of this client.
	program   atomic.Pointer[program]
	finishing atomic.Bool
	reporting atomic.Bool

	mu    sync.Mutex
	state int
	link  *outlet
	// left is what was not written of the connection before, leftFrom the first command of it.
	left     []byte
	leftFrom uint64
	changed  chan struct{}
	// leaves says that the end of this connection is the end of the client.
	leaves    bool
	line      []chan struct{}
	gen       uint32
	node      string
	leaving   string
	half      bool
	lastID    uint64
	seq       uint64
	plain     uint64
	sure      uint64
	mores     []uint64
	pending   map[uint64]*pending
	processes map[string]*Process
	order     []*Process
	declared  []*declaration
	report    *Report
	owed      int64
	goneAway  chan struct{}

	notes    []func()
	noting   bool
	notesMu  sync.Mutex
	closing  sync.Once
	closeErr error
}

type options struct {
	socket, name string
	grace, wait  time.Duration
	log          *slog.Logger
	draining     func(*Client)
	drained      func()
	disconnected func(error)
	failed       func(Failed)
	report       func(Report)
}

// Option says how a client is to be.
type Option func(*options)

// Socket names the node's socket. Without it it is PILLION_SOCKET, else the only one that answers below PILLION_DIR or
// /tmp/pillion-<uid>.
func Socket(path string) Option { return func(o *options) { o.socket = path } }

// Name is what the node shows of this app to people, at most 255 bytes; else the program's name.
func Name(name string) Option { return func(o *options) { o.name = name } }

// Grace is for how long the node keeps the app's processes when the connection breaks: not at all unless
// told otherwise, at most an hour. Others hear of a program that was killed only then.
func Grace(grace time.Duration) Option { return func(o *options) { o.grace = grace } }

// ConnectTimeout is how long [Connect] tries while nobody listens: 10 s.
func ConnectTimeout(wait time.Duration) Option { return func(o *options) { o.wait = wait } }

// Logger is where is logged what no callback takes: [slog.Default].
func Logger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// OnDraining is called when the node is about to leave; the app decides then what to do ([Client.Drain] does what is done without this
// callback). Callbacks are called one after the other.
func OnDraining(f func(*Client)) Option { return func(o *options) { o.draining = f } }

// OnDrained is called when the client has finished with a node that leaves.
func OnDrained(f func()) Option { return func(o *options) { o.drained = f } }

// OnDisconnected is called as soon as the connection breaks, before it is tried to connect again; with why.
func OnDisconnected(f func(error)) Option { return func(o *options) { o.disconnected = f } }

// OnFailed is called when a command failed that has no answer: a Send, Cast, Publish or Reply. Without it that is logged.
func OnFailed(f func(Failed)) Option { return func(o *options) { o.failed = f } }

// OnReport is called after a connection was lost and is there again. Without it, it is logged when something was lost.
func OnReport(f func(Report)) Option { return func(o *options) { o.report = f } }

// Failed is what became of commands that have no answer: of one, or of several with the same fate within a second.
type Failed struct {
	// Op is the command, To whom it was for.
	Op, To string
	// Code and Message are those of an [Error]; of several there is no message.
	Code, Message string
	// Count is how many failed.
	Count int64
}

// Report is what was lost with a connection.
type Report struct {
	// Resumed says that the session lives on: pids, names and mailboxes are as they were. Else the node knew nothing of this app any
	// more, and everything was declared again.
	Resumed bool
	// LostEvents is how much the node had written that did not arrive.
	LostEvents int64
	// LostCommands is how many commands without an answer were written and not carried out.
	LostCommands int64
	// UnsureCommands is of how many nobody knows, when it was not resumed.
	UnsureCommands int64
}

// Connect connects to the node beside the app, introduces the app, and from then on keeps the connection up until Close.
//
// While nobody listens it tries again, until ctx ends or [ConnectTimeout] is over: [ErrUnreachable] then.
func Connect(ctx context.Context, opts ...Option) (*Client, error) {
	o := options{wait: connectionWait, name: filepath.Base(os.Args[0])}
	for _, option := range opts {
		option(&o)
	}
	if o.log == nil {
		o.log = slog.Default()
	}
	c := &Client{options: o, log: o.log, pending: make(map[uint64]*pending), processes: make(map[string]*Process),
		goneAway: make(chan struct{}), hosted: os.Getenv("PILLION_PROCESS")}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.Process = newProcess(c)
	c.own = true
	wait, stop := context.WithTimeout(ctx, o.wait)
	defer stop()
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		l, err := c.establish(wait)
		if err == nil {
			c.tasks.Add(1)
			go c.run(l)
			return c, nil
		}
		var refused *Error
		if errors.As(err, &refused) && !slices.Contains([]string{"unreachable", "timeout", "overloaded"}, refused.Code) {
			c.cancel()
			return nil, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-wait.Done():
			timer.Stop()
		}
		if wait.Err() != nil {
			c.cancel()
			if ctx.Err() != nil && refused == nil {
				return nil, contextError(ctx.Err(), "not connected: "+err.Error(), false)
			}
			return nil, err
		}
	}
}

// Node is the name of the node, as it is now.
func (c *Client) Node() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node
}

// Close says goodbye, ends all processes of the client ([GenServer]s by Terminate with "shutdown"), and returns when nothing of it
// runs any more: functions of tasks and served ones have their contexts ended. What waits for an answer gets [ErrClosed]. When ctx ends
// first, the connection is closed without a goodbye's answer.
//
// A callback of a [GenServer], a served function or the function of a task that calls it waits for its own end: it says `go client.Close(ctx)`.
func (c *Client) Close(ctx context.Context) error {
	c.closing.Do(func() { c.closeErr = c.close(ctx) })
	return c.closeErr
}

func (c *Client) close(ctx context.Context) error {
	c.mu.Lock()
	isUp := c.state == up
	order := append([]*Process(nil), c.order...)
	c.mu.Unlock()
	for _, p := range order {
		if p.serves != nil {
			p.serves.shut(ctx)
		}
	}
	c.mu.Lock()
	c.leaves = true
	c.mu.Unlock()
	var err error
	if isUp {
		bye, stop := context.WithTimeout(ctx, connectionWait)
		_, err = c.ask(bye, &command{op: "bye", internal: true})
		stop()
	}
	c.mu.Lock()
	c.state = closed
	l := c.link
	for _, w := range c.pending {
		c.settle(w, Answer{}, errClosed())
	}
	order = append([]*Process{c.Process}, c.order...)
	c.order, c.declared = nil, nil
	c.change()
	c.mu.Unlock()
	c.cancel()
	for _, p := range order {
		p.end("shutdown", errClosed())
	}
	if l != nil {
		c.end(l)
	}
	ended := make(chan struct{})
	go func() {
		c.tasks.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		// Where the node alone was too slow, what is left ends at once.
		select {
		case <-ended:
		case <-time.After(endsSoon):
			return contextError(ctx.Err(), "closed, but something of the app goes on", true)
		}
	}
	if errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) {
		err = nil
	}
	return err
}

// endsSoon is what goroutines that only have to end are given.
const endsSoon = time.Second

// note calls a callback of the app, one after the other.
func (c *Client) note(f func()) {
	c.notesMu.Lock()
	defer c.notesMu.Unlock()
	c.notes = append(c.notes, f)
	if c.noting {
		return
	}
	c.noting = true
	go func() {
		for {
			c.notesMu.Lock()
			if len(c.notes) == 0 {
				c.noting = false
				c.notesMu.Unlock()
				return
			}
			f := c.notes[0]
			c.notes = c.notes[1:]
			c.notesMu.Unlock()
			f()
		}
	}()
}

// failed tells of commands that have no answer.
func (c *Client) failed(f *frame) {
	count, _ := findUint(f.header, "count")
	c.tellFailed(Failed{Op: findText(f.header, "op"), To: findText(f.header, "to"), Code: findText(f.header, "code"),
		Message: findText(f.header, "message"), Count: int64(count)})
}

func (c *Client) tellFailed(failed Failed) {
	if f := c.options.failed; f != nil {
		c.note(func() { f(failed) })
		return
	}
	c.log.Warn("pillion: a command failed", "op", failed.Op, "to", failed.To, "code", failed.Code,
		"message", failed.Message, "count", failed.Count)
}

// settleReport tells the report of a resume, when there is one to tell.
func (c *Client) settleReport() {
	c.mu.Lock()
	report := c.report
	c.report = nil
	c.reporting.Store(false)
	c.mu.Unlock()
	if report != nil {
		c.tellReport(*report)
	}
}

func (c *Client) tellReport(report Report) {
	if f := c.options.report; f != nil {
		c.note(func() { f(report) })
		return
	}
	if report.LostEvents+report.LostCommands+report.UnsureCommands > 0 {
		c.log.Warn("pillion: the connection to the node was lost, and more with it", "resumed", report.Resumed,
			"lost_events", report.LostEvents, "lost_commands", report.LostCommands, "unsure_commands", report.UnsureCommands)
	}
}

// lostAnswers is what the gap after a resume means: answers may be among what is missing.
func (c *Client) lostAnswers(lost int64) {
	c.mu.Lock()
	for _, w := range c.pending {
		if w.seq <= c.resumedAt {
			c.settle(w, Answer{}, errLost(true))
		}
	}
	if c.report == nil {
		c.report = &Report{Resumed: true}
	}
	c.report.LostEvents += lost
	processes := append([]*Process{c.Process}, c.order...)
	c.mu.Unlock()
	c.settleReport()
	for _, p := range processes {
		c.tellAgain(p, true)
	}
}
