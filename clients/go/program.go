package pillion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// program says that the client is the whole program of one [GenServer], which is its own process.
type program struct{ hosted bool }

// Run is the whole program of one [GenServer]: it connects, starts it, and returns when it has ended.
//
//	func main() { os.Exit(pillion.ExitCode(pillion.Run(context.Background(), &Store{}, "primary_store"))) }
//
// The server is the client's own process, registered under the name, if that is not ""; of a program that a node hosts it is the hosted
// process, which has its name already. The error is nil when it ended with "normal", "shutdown" or "shutdown: ...". Else a line on standard
// error has said why, and the error is [ErrExit] with its Reason, or the one of connecting.
//
// At SIGTERM and SIGINT, when ctx ends, and when the node is about to leave, it answers what it was given, Terminate is called with
// "shutdown", and the error is nil. A hosted program whose node is gone ends with "noconnection". OnDraining is not of use here.
func Run(ctx context.Context, callbacks GenServer, name string, opts ...Option) error {
	title := name
	if title == "" {
		title = os.Getenv("PILLION_NAME")
	}
	if title == "" {
		title = fmt.Sprintf("%T", callbacks)
	}
	reason, err := runProgram(ctx, callbacks, name, opts)
	switch {
	case err != nil:
		say(title + " cannot start: " + strings.TrimPrefix(err.Error(), "pillion: "))
		return err
	case reason == "normal" || reason == "shutdown" || strings.HasPrefix(reason, "shutdown:"):
		return nil
	}
	say(title + " has ended: " + reason)
	return &Error{Code: "exit", Message: title + " has ended: " + reason, Reason: reason}
}

// ExitCode is the status for a program that ends with what [Run] has returned: 0 without an error, else 1.
func ExitCode(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

func say(line string) { fmt.Fprintln(os.Stderr, strings.Join(strings.Fields(line), " ")) }

func runProgram(ctx context.Context, callbacks GenServer, name string, opts []Option) (reason string, err error) {
	ctx, forget := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer forget()
	leaves, once := make(chan struct{}), sync.Once{}
	opts = append(opts[:len(opts):len(opts)], OnDraining(func(*Client) { once.Do(func() { close(leaves) }) }))
	hosted := os.Getenv("PILLION_PROCESS") != ""
	c, err := Connect(ctx, opts...)
	if err == nil && name != "" && !(hosted && os.Getenv("PILLION_NAME") == name) {
		err = c.Register(ctx, name)
	}
	closing := func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectionWait)
		defer cancel()
		_ = c.Close(end)
	}
	if err != nil {
		if c != nil {
			closing()
		}
		if ctx.Err() != nil {
			return "shutdown", nil
		}
		return "", err
	}
	defer closing()
	c.program.Store(&program{hosted})
	s := &server{process: c.Process, callbacks: callbacks}
	s.renew()
	c.Process.serves = s
	if err := s.guard(func() error { return callbacks.Init(s.ctx, c.Process) }); err != nil {
		reason, halt := raised(err).exitReason(), (*stop)(nil)
		if errors.As(err, &halt) {
			reason = halt.reason
		}
		c.exitOwn(reason, nil)
		return reason, nil
	}
	c.tasks.Add(1)
	go s.loop(s.ctx, s.ended, s.leaving)
	select {
	case <-s.ended:
	case <-leaves:
		_ = c.drain(c.ctx)
	case <-ctx.Done():
		_ = c.drain(c.ctx)
	}
	return c.Process.Reason(), nil
}

// exitOwn ends the client's own process, and with it the session and the connection: of a hosted program too.
func (c *Client) exitOwn(reason string, only *outlet) {
	c.mu.Lock()
	c.leaves = true
	c.mu.Unlock()
	if c.Process.Reason() != "" {
		return
	}
	cmd := command{op: "exit", only: only}
	if reason != "normal" {
		cmd.fields = []field{text("reason", cut(reason, 1024))}
	}
	ctx, cancel := context.WithTimeout(c.ctx, connectionWait)
	defer cancel()
	_, _ = c.ask(ctx, &cmd)
	c.mu.Lock()
	c.state = drained
	c.mu.Unlock()
	c.Process.end(reason, nil)
}

// isOver says that the process of a program has died, or that its node is gone.
func (c *Client) isOver(reason string) {
	c.mu.Lock()
	c.leaves = true
	c.mu.Unlock()
	c.Process.end(reason, nil)
}

func (c *Client) isHosted() bool {
	program := c.program.Load()
	return program != nil && program.hosted
}
