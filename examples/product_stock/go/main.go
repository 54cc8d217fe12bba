// The product stock: a process that keeps a list of products and answers whoever asks, on whatever node.
//
//	go run . serve [NAME]
//	go run . add ADDRESS PRODUCT QTY
//	go run . status ADDRESS
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
)

type product struct {
	Name string `json:"name"`
	Qty  int    `json:"qty"`
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
	case len(args) >= 1 && args[0] == "serve":
		name := "product_stock"
		if len(args) > 1 {
			name = args[1]
		}
		err = handleStock(ctx, client, name)
	case len(args) == 4 && args[0] == "add":
		var qty int
		if qty, err = strconv.Atoi(args[3]); err == nil {
			err = ask(ctx, client, args[1], []any{"add", client.PID(), product{args[2], qty}})
		}
	case len(args) == 2 && args[0] == "status":
		err = ask(ctx, client, args[1], []any{"status", client.PID()})
	default:
		err = fmt.Errorf("usage: product_stock serve [NAME] | add ADDRESS PRODUCT QTY | status ADDRESS")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// handleStock answers messages ["add", from, product] and ["status", from] with the whole stock, and calls ["add", product] and ["status"].
func handleStock(ctx context.Context, client *pillion.Client, name string) error {
	if err := client.Register(ctx, name); err != nil {
		return err
	}
	fmt.Println("registered as", name)
	stock := []product{}
	for event, err := range client.Events(ctx) {
		if err != nil {
			return err
		}
		said, err := pillion.Decode[[]pillion.Body](event.Body)
		if err != nil || len(said) == 0 {
			continue
		}
		from, rest := event.From, said[1:]
		if event.Kind == pillion.KindMessage {
			if len(rest) == 0 || rest[0].Decode(&from) != nil {
				continue
			}
			rest = rest[1:]
		}
		switch what, _ := pillion.Decode[string](said[0]); {
		case what == "add" && len(rest) == 1:
			added, err := pillion.Decode[product](rest[0])
			if err != nil {
				continue
			}
			stock = append([]product{added}, stock...)
			fmt.Println(from, "added a new item on stock")
		case what == "status":
			fmt.Println(from, "checked the stock")
		default:
			continue
		}
		if event.Kind == pillion.KindCall {
			err = event.Reply(ctx, stock)
		} else {
			err = client.Send(ctx, from, stock)
		}
		if err != nil {
			log.Println(err)
		}
	}
	return nil
}

// ask sends a message to the stock, and prints what it answers.
func ask(ctx context.Context, client *pillion.Client, address string, message any) error {
	if _, err := client.Monitor(ctx, address); err != nil {
		return err
	}
	if err := client.Send(ctx, address, message); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	event, err := client.Receive(ctx)
	if err != nil {
		return err
	}
	if event.Kind == pillion.KindDown {
		return fmt.Errorf("%s does not answer: %s", address, event.Reason)
	}
	line, err := json.Marshal(event.Body.Value())
	fmt.Println(string(line))
	return err
}
