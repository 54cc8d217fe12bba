// A key-value store: a GenServer, registered as primary_store.
//
//	go run . serve
//	go run . set ADDRESS KEY VALUE
//	go run . get ADDRESS KEY
//	go run . delete ADDRESS KEY
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	pillion "github.com/pillion/pillion/clients/go"
)

// KeyValueStore keeps its state between the callbacks, which come one at a time.
type KeyValueStore struct {
	pillion.Callbacks
	state map[string]any
}

// Start starts a store with an initial state.
func Start(ctx context.Context, client *pillion.Client, initial map[string]any) (*pillion.Process, error) {
	return client.Start(ctx, &KeyValueStore{state: initial})
}

// Set, Get and Delete are what others use.
func Set(ctx context.Context, p *pillion.Process, server, key string, value any) error {
	return p.Cast(ctx, server, []any{"set", key, value}, pillion.Confirm())
}

func Get(ctx context.Context, p *pillion.Process, server, key string) (any, error) {
	return pillion.Call[any](ctx, p, server, []any{"get", key})
}

func Delete(ctx context.Context, p *pillion.Process, server, key string) error {
	return p.Cast(ctx, server, []any{"delete", key}, pillion.Confirm())
}

// HandleCast handles ["set", key, value] and ["delete", key].
func (s *KeyValueStore) HandleCast(_ context.Context, body pillion.Body) error {
	said, err := pillion.Decode[[]any](body)
	if err != nil {
		return err
	}
	switch {
	case len(said) == 3 && said[0] == "set":
		s.state[fmt.Sprint(said[1])] = said[2]
	case len(said) == 2 && said[0] == "delete":
		delete(s.state, fmt.Sprint(said[1]))
	}
	return nil
}

// HandleCall answers ["get", key] with the value, or null.
func (s *KeyValueStore) HandleCall(_ context.Context, body pillion.Body, _ pillion.From) (any, error) {
	said, err := pillion.Decode[[]any](body)
	if err != nil || len(said) != 2 || said[0] != "get" {
		return nil, &pillion.Exception{Class: "undef", Reason: "only get can be called"}
	}
	return s.state[fmt.Sprint(said[1])], nil
}

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	client, err := pillion.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "serve":
		err = serve(ctx, client)
	case len(args) == 4 && args[0] == "set":
		err = Set(ctx, client.Process, args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "get":
		var value any
		if value, err = Get(ctx, client.Process, args[1], args[2]); err == nil {
			show(value)
		}
	case len(args) == 3 && args[0] == "delete":
		err = Delete(ctx, client.Process, args[1], args[2])
	default:
		err = fmt.Errorf("usage: key_value_store serve | set ADDRESS KEY VALUE | get ADDRESS KEY | delete ADDRESS KEY")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, client *pillion.Client) error {
	store, err := Start(ctx, client, map[string]any{})
	if err != nil {
		return err
	}
	if err := store.Register(ctx, "primary_store"); err != nil {
		return err
	}
	fmt.Println("registered as primary_store")
	<-store.Done()
	return fmt.Errorf("the store has ended: %s", store.Reason())
}

// show prints a text as it is, and everything else as JSON.
func show(value any) {
	if text, plain := value.(string); plain {
		fmt.Println(text)
		return
	}
	line, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}
