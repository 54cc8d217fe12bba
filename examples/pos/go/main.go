// A point of sale: it asks the stock for its customers, many at once.
//
//	go run . serve [SERVER_ADDRESS]
//	go run . ask POS_ADDRESS PRODUCT
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
)

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	client, err := pillion.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	switch args := os.Args[1:]; {
	case len(args) >= 1 && args[0] == "serve":
		server := "server@server"
		if len(args) > 1 {
			server = args[1]
		}
		err = serve(ctx, client, server)
	case len(args) == 3 && args[0] == "ask":
		err = ask(ctx, client, args[1], args[2])
	default:
		err = fmt.Errorf("usage: pos serve [SERVER_ADDRESS] | ask POS_ADDRESS PRODUCT")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve answers messages ["ask", from, product], each in a goroutine: a slow stock holds no other customer.
func serve(ctx context.Context, client *pillion.Client, server string) error {
	if err := client.Register(ctx, "pos"); err != nil {
		return err
	}
	fmt.Println("registered as pos")
	for event, err := range client.Events(ctx) {
		if err != nil {
			return err
		}
		asked, err := pillion.Decode[[]string](event.Body)
		if event.Kind != pillion.KindMessage || err != nil || len(asked) != 3 || asked[0] != "ask" {
			continue
		}
		from, product := asked[1], asked[2]
		fmt.Println(from, "wants to know if get a product")
		go func() {
			if err := client.Send(ctx, from, []any{"print", look(ctx, client, server, product)}); err != nil {
				log.Println(err)
			}
		}()
	}
	return nil
}

// look asks the stock: the product, or what is to be said instead.
func look(ctx context.Context, client *pillion.Client, server, product string) any {
	stock, err := pillion.Call[[]map[string]any](ctx, client.Process, server, []any{"status"})
	var failure *pillion.Error
	if errors.As(err, &failure) {
		return "The stock does not answer: " + failure.Code
	}
	for _, item := range stock {
		if item["name"] == product {
			return item
		}
	}
	return "There is no Product " + product
}

// ask is a customer: it prints what it hears.
func ask(ctx context.Context, client *pillion.Client, pos, product string) error {
	if _, err := client.Monitor(ctx, pos); err != nil {
		return err
	}
	if err := client.Send(ctx, pos, []any{"ask", client.PID(), product}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	event, err := client.Receive(ctx)
	if err != nil {
		return err
	}
	if event.Kind == pillion.KindDown {
		return fmt.Errorf("%s does not answer: %s", pos, event.Reason)
	}
	heard, err := pillion.Decode[[]any](event.Body)
	if err != nil || len(heard) != 2 {
		return fmt.Errorf("not understood: %v", event.Body.Value())
	}
	if text, plain := heard[1].(string); plain {
		fmt.Println(text)
		return nil
	}
	line, err := json.Marshal(heard[1])
	fmt.Println(string(line))
	return err
}
