package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
)

func Example() {
	ctx := context.Background()
	client, err := pillion.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	if err := client.Register(ctx, "greeter"); err != nil {
		log.Fatal(err)
	}
	for event, err := range client.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Kind == pillion.KindCall {
			name, _ := pillion.Decode[string](event.Body)
			_ = event.Reply(ctx, "hello, "+name)
		}
	}
}

func ExampleCall() {
	var client *pillion.Client // from Connect
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	count, err := pillion.Call[int](ctx, client.Process, "stock@store", []any{"count", "nike"})
	var failure *pillion.Error
	switch {
	case err == nil:
		fmt.Println(count)
	case errors.Is(err, pillion.ErrNoProc):
		fmt.Println("nobody sells there")
	case errors.As(err, &failure) && failure.MaybeApplied:
		fmt.Println("it may have been counted:", failure.Message)
	}
}

func ExampleProcess_Receive() {
	ctx := context.Background()
	var client *pillion.Client // from Connect
	// What it does not want stays in the mailbox.
	event, err := client.Receive(ctx, func(e *pillion.Event) bool { return e.Kind == pillion.KindDown })
	if err == nil {
		fmt.Println(event.From, "is gone:", event.Reason)
	}
}

// Counter is a GenServer that counts.
type Counter struct {
	pillion.Callbacks
	count int
}

func (c *Counter) HandleCast(context.Context, pillion.Body) error {
	c.count++
	return nil
}

func (c *Counter) HandleCall(context.Context, pillion.Body, pillion.From) (any, error) {
	return c.count, nil
}

func ExampleGenServer() {
	ctx := context.Background()
	var client *pillion.Client // from Connect
	if _, err := client.Start(ctx, &Counter{}, pillion.WithName("counter")); err != nil {
		log.Fatal(err)
	}
	_ = client.Cast(ctx, "counter", nil)
	count, err := pillion.Call[int](ctx, client.Process, "counter", nil)
	fmt.Println(count, err)
}

func ExampleClient_Serve() {
	ctx := context.Background()
	var client *pillion.Client // from Connect
	_, err := client.Serve(ctx, "math", pillion.Functions{
		"add": func(a, b int) int { return a + b },
		"div": func(a, b float64) (float64, error) {
			if b == 0 {
				return 0, errors.New("division by zero")
			}
			return a / b, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	sum, err := pillion.RPC[int](ctx, client.Process, "any", "math", "add", 1, 2)
	fmt.Println(sum, err)
}

func ExampleClient_Subscribe() {
	ctx := context.Background()
	var client *pillion.Client // from Connect
	news, err := client.Subscribe(ctx, "shop.*")
	if err != nil {
		log.Fatal(err)
	}
	defer news.Close(ctx)
	for event, err := range news.Messages(ctx) {
		switch {
		case err != nil:
			log.Fatal(err)
		case event.Kind == pillion.KindGap:
			fmt.Println("messages are missing here:", event.Lost)
		default:
			fmt.Println(event.Topic, event.Body.Value())
		}
	}
}

func ExampleAsync() {
	ctx := context.Background()
	var client *pillion.Client // from Connect
	task, err := pillion.Async(ctx, client.Process, func(ctx context.Context, self *pillion.Process) (int, error) {
		return pillion.Call[int](ctx, self, "stock@store", []any{"count", "nike"})
	})
	if err != nil {
		log.Fatal(err)
	}
	count, err := task.Await(ctx)
	fmt.Println(count, err)
}
