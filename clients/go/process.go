package pillion

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"
)

// Process is a mailbox with a pid, and who acts: it sends, calls, receives, links and monitors. A [Client] is one; [Client.Spawn]
// makes more. All methods may be used by many goroutines.
type Process struct {
	client *Client
	own    bool
	spec   spec
	done   chan struct{}

	// Guarded by client.mu.
	pid PID

	mu       sync.Mutex
	queue    []Event
	at       int
	waiting  []chan struct{}
	spare    chan struct{}
	gen      uint32
	consumed int
	// later says that events are consumed by used, not when they are taken.
	later    bool
	untold   int
	open     map[uint64]context.CancelFunc
	ended    bool
	over     bool
	reason   string
	failure  error
	ref      uint64
	monitors map[uint64]PID
	links    map[PID]bool
	// serves is what the process runs that answers calls by itself, a GenServer or served functions; nil of others.
	serves serving
	// ends says that an iterator is all that takes from this process.
	ends bool
}

func newProcess(c *Client) *Process {
	return &Process{client: c, done: make(chan struct{}), monitors: make(map[uint64]PID)}
}

// spec is what a process is spawned with, now and after a restart of the node.
type spec struct {
	name, label string
	trap        bool
	link        *Process
	monitor     *Process
}

// SpawnOption says how a process is to be.
type SpawnOption func(*spec)

// WithName registers the process under this name of the node at once. [ErrTaken] when somebody has it: then there is no process.
func WithName(name string) SpawnOption { return func(s *spec) { s.name = name } }

// WithLabel gives the process a label for people, at most 255 bytes.
func WithLabel(label string) SpawnOption { return func(s *spec) { s.label = label } }

// TrapExit makes exit signals events instead of the end of the process.
func TrapExit() SpawnOption { return func(s *spec) { s.trap = true } }

// Linked ties the process to this one from the first moment.
func Linked(to *Process) SpawnOption { return func(s *spec) { s.link = to } }

// Monitored has this one hear of the end of the process from the first moment: a down event whose Ref is [Process.Ref].
func Monitored(by *Process) SpawnOption { return func(s *spec) { s.monitor = by } }

// Ref is that of the monitor that the process was spawned with.
func (p *Process) Ref() uint64 { return p.ref }

// Spawn makes a process: a mailbox with a pid of its own, on the node. It lives until Exit, until a signal ends it, or until the
// client is closed; after a restart of the node it is made again, with a new pid.
//
// When ctx ends first, a process that comes after all is ended again.
func (c *Client) Spawn(ctx context.Context, options ...SpawnOption) (*Process, error) {
	p := newProcess(c)
	for _, option := range options {
		option(&p.spec)
	}
	if err := c.spawn(ctx, p, false); err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the pid as it is now: a node that was restarted gives another one.
func (p *Process) PID() PID {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return p.pid
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Reason is why the process has ended; empty while it lives.
func (p *Process) Reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// Client is the connection that the process belongs to.
func (p *Process) Client() *Client { return p.client }

// Exit ends the process; "" is the reason "normal". Who is linked or monitors it hears the reason. Of the client's own process it
// ends all of its processes and declarations, and the client begins anew.
//
// When ctx ends before the node has answered, with MaybeApplied, the process is ended all the same.
func (p *Process) Exit(ctx context.Context, reason string) error {
	cmd := command{op: "exit", process: p}
	if reason != "" && reason != "normal" {
		cmd.fields = []field{text("reason", cut(reason, 1024))}
	}
	if reason == "" {
		reason = "normal"
	}
	_, err := p.client.ask(ctx, &cmd)
	// Written is as good as done: the node ends it, whether its word is waited for or not.
	var failure *Error
	written := err == nil || (errors.As(err, &failure) && failure.MaybeApplied)
	if written && !p.own {
		p.client.gone(p, reason)
	}
	return err
}

// drop forgets a process whatever ctx says, and has the node end it as soon as that can be told.
func (p *Process) drop(reason string) {
	c := p.client
	c.mu.Lock()
	pid, gen := p.pid, c.gen
	lives := c.processes[pid] == p && c.state != closed
	if lives {
		c.tasks.Add(1)
	}
	c.mu.Unlock()
	c.gone(p, reason)
	if !lives {
		return
	}
	fields := []field{text("pid", pid)}
	if reason != "normal" {
		fields = append(fields, text("reason", cut(reason, 1024)))
	}
	go func() {
		defer c.tasks.Done()
		for again := true; again && c.ctx.Err() == nil; {
			_, err := c.ask(c.ctx, &command{op: "exit", fields: fields, gen: gen})
			// For as long as the session may be taken up again.
			c.mu.Lock()
			again = errors.Is(err, ErrLost) && c.gen == gen
			c.mu.Unlock()
		}
	}()
}

// SendOption says more about a send, cast or publish.
type SendOption func(*sending)

type sending struct {
	confirm, retain, exclude, local bool
	mode                            string
}

// Confirm waits for the node's word that it has taken the message (not that it arrived), and gives the error if it has not. Without
// it the message is only written, and what fails is heard by [OnFailed].
func Confirm() SendOption { return func(s *sending) { s.confirm = true } }

// Try makes it [ErrOverloaded] instead of a wait when the mailbox or the way to the node is full.
func Try() SendOption { return func(s *sending) { s.mode = "try" } }

// Lossy lets the message rather be lost than wait.
func Lossy() SendOption { return func(s *sending) { s.mode = "lossy" } }

// Send puts a message into the mailbox of whoever the address leads to. It returns once the message is in the client's buffer: it waits
// while more than 1 MiB is unwritten, and for up to 10 s while there is no connection.
//
// When ctx ends the wait, or with [ErrLost], nothing was sent. The exception is Confirm: then MaybeApplied says it.
func (p *Process) Send(ctx context.Context, to PID, body any, options ...SendOption) error {
	return p.say(ctx, "send", to, body, options)
}

// Cast is Send for a request that wants no answer: a [GenServer] has it in HandleCast.
func (p *Process) Cast(ctx context.Context, to PID, body any, options ...SendOption) error {
	return p.say(ctx, "cast", to, body, options)
}

func (p *Process) say(ctx context.Context, op string, to PID, body any, options []SendOption) error {
	item, err := encode(body)
	if err != nil {
		return err
	}
	cmd := command{op: op, process: p, body: item}
	if len(options) == 0 {
		cmd.fields = []field{text("to", to)}
		err = p.client.tell(ctx, &cmd)
	} else {
		var how sending
		for _, option := range options {
			option(&how)
		}
		fields := append(make([]field, 0, 2), text("to", to))
		if how.mode != "" {
			fields = append(fields, text("mode", how.mode))
		}
		cmd.fields = fields
		if how.confirm {
			_, err = p.client.ask(ctx, &cmd)
		} else {
			err = p.client.tell(ctx, &cmd)
		}
	}
	item.free()
	return err
}

// Call asks whoever the address leads to and waits for the reply. The deadline of ctx is told to the node; without one it is 5 s.
//
// Every call ends once: with the reply, or an [*Error] whose MaybeApplied says whether the callee may have acted: [ErrTimeout],
// [ErrNoProc], [ErrExit], [ErrException], [ErrUndef], [ErrNoConnection], [ErrOverloaded], [ErrLost]. When ctx is cancelled the
// callee goes on, and its reply is dropped: [ErrCancelled].
//
// Without a deadline in ctx it is the node that keeps the 5 s: a node that hangs, without its connection breaking, is waited for.
func (p *Process) Call(ctx context.Context, to PID, body any) (Body, error) {
	item, err := encode(body)
	if err != nil {
		return Body{}, err
	}
	deadline, milliseconds := timeout(ctx)
	cmd := command{op: "call", process: p, body: item, flush: true}
	if milliseconds == 0 {
		cmd.fields = []field{text("to", to)}
	} else {
		cmd.fields = []field{text("to", to), number("timeout_ms", milliseconds)}
	}
	answer, err := p.client.await(ctx, &cmd, deadline, nil)
	item.free()
	return answer.Body, err
}

// Call is [Process.Call] with the reply decoded into a T. A client is a process too: pass client.Process.
func Call[T any](ctx context.Context, p *Process, to PID, body any) (T, error) {
	reply, err := p.Call(ctx, to, body)
	if err != nil {
		var none T
		return none, err
	}
	return Decode[T](reply)
}

// RPC calls a served function, "any" as the node for the nearest that has it. It ends as Call does; what is not there is [ErrUndef].
func (p *Process) RPC(ctx context.Context, node, module, function string, args ...any) (Body, error) {
	if args == nil {
		args = []any{}
	}
	item, err := encode(args)
	if err != nil {
		return Body{}, err
	}
	deadline, milliseconds := timeout(ctx)
	fields := append(make([]field, 0, 4), text("node", node), text("module", module), text("function", function))
	if milliseconds != 0 {
		fields = append(fields, number("timeout_ms", milliseconds))
	}
	cmd := command{op: "rpc", process: p, body: item, fields: fields, flush: true}
	answer, err := p.client.await(ctx, &cmd, deadline, nil)
	item.free()
	return answer.Body, err
}

// RPC is [Process.RPC] with what is returned decoded into a T.
func RPC[T any](ctx context.Context, p *Process, node, module, function string, args ...any) (T, error) {
	reply, err := p.RPC(ctx, node, module, function, args...)
	if err != nil {
		var none T
		return none, err
	}
	return Decode[T](reply)
}

// Part is a part of an answer.
type Part struct {
	Body
	// Last says that it is the value of the call: no other follows.
	Last bool
}

// Stream is Call for an answer in parts: each as it comes, the value at the end, or an error. Each part starts the node's deadline anew;
// that of ctx is for all. Who leaves the loop early drops the rest. What has come and was not taken lies in this program, without a
// bound: of a callee that is faster than the loop, ask for one piece after the other by calls.
func (p *Process) Stream(ctx context.Context, to PID, body any) iter.Seq2[Part, error] {
	return func(yield func(Part, error) bool) {
		item, err := encode(body)
		if err != nil {
			yield(Part{}, err)
			return
		}
		fields := append(make([]field, 0, 2), text("to", to))
		deadline, milliseconds := timeout(ctx)
		if milliseconds != 0 {
			fields = append(fields, number("timeout_ms", milliseconds))
		}
		cmd := command{op: "call", process: p, body: item, fields: fields, flush: true}
		stopped := false
		answer, err := p.client.await(ctx, &cmd, deadline, func(part Body) bool {
			stopped = stopped || !yield(Part{Body: part}, nil)
			return !stopped
		})
		item.free()
		if !stopped {
			yield(Part{answer.Body, err == nil}, err)
		}
	}
}

// callTimeout is how long a call may last when nothing is said; the node's own default.
const callTimeout = 5 * time.Second

// timeout gives the deadline of a call, and what is told to the node: 0 for its default.
func timeout(ctx context.Context) (time.Time, uint64) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Time{}, 0
	}
	left := time.Until(deadline)
	return deadline, uint64(max(1, (left + time.Millisecond/2).Milliseconds()))
}
