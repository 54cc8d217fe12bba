package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	pillion "github.com/pillion/pillion/clients/go"
)

// done counts the senders that are to end: each belongs to one measurement.
var done atomic.Int64

var ctx = context.Background()

func connect(variable string) *pillion.Client {
	client, err := pillion.Connect(ctx, pillion.Socket(os.Getenv(variable)))
	check(err)
	return client
}

func name() string { return fmt.Sprintf("bench-%d", os.Getpid()) }

type echo struct{ pillion.Callbacks }

func (echo) HandleCall(_ context.Context, body pillion.Body, _ pillion.From) (any, error) {
	return body, nil
}

func respondPillion(_ *end, ready func(string)) {
	client := connect("PILLION_B")
	_, err := client.Start(ctx, echo{}, pillion.WithName(name()))
	check(err)
	ready(name() + "@b@bench")
	select {}
}

func callPillion(e *end, to string) func() error {
	client, body := connect("PILLION_A"), make([]byte, e.size)
	return func() error {
		reply, err := pillion.Call[[]byte](ctx, client.Process, to, body)
		if err == nil && len(reply) != len(body) {
			err = errors.New("another body came back")
		}
		return err
	}
}

func sendPillion(e *end, to string) {
	client, body, mine := connect("PILLION_A"), make([]byte, e.size), done.Load()
	for done.Load() == mine {
		var err error
		if e.what == "publish" {
			err = client.Publish(ctx, to, body)
		} else {
			err = client.Send(ctx, to, body)
		}
		check(err)
	}
	check(client.Close(ctx))
}

func countPillion(e *end, ready func(string)) float64 {
	client := connect("PILLION_B")
	defer client.Close(ctx)
	p := client.Process
	if e.what == "publish" {
		s, err := client.Subscribe(ctx, name(), pillion.Sync())
		check(err)
		p = s.Process()
	}
	_, err := p.Request(ctx, "flag", map[string]any{"mailbox": map[string]any{"policy": "wait"}}, nil)
	check(err)
	if e.what == "publish" {
		ready(name())
	} else {
		check(client.Register(ctx, name()))
		ready(name() + "@b@bench")
	}
	c := counting{span: e.time}
	for {
		event, err := p.Receive(ctx)
		check(err)
		var body []byte
		check(event.Decode(&body))
		if c.add(1) {
			return c.perSecond()
		}
	}
}

// pair makes two connected sockets: one stays here, the other goes to the process that is started.
func pair() *os.File {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	here = os.NewFile(uintptr(ends[0]), "here")
	return os.NewFile(uintptr(ends[1]), "there")
}

var here *os.File
