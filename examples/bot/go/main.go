// A bot: a linked task that answers messages in a loop.
//
//	go run . serve
//	go run . help ADDRESS
//	go run . date ADDRESS
package main

import (
	"context"
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
	case len(args) == 1 && args[0] == "serve":
		err = serve(ctx, client)
	case len(args) == 2 && args[0] == "help":
		err = ask(ctx, client, args[1], "help")
	case len(args) == 2 && args[0] == "date":
		err = ask(ctx, client, args[1], "date_today")
	default:
		err = fmt.Errorf("usage: bot serve | help ADDRESS | date ADDRESS")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve starts the bot and waits for it: a bot that dies takes this with it.
func serve(ctx context.Context, client *pillion.Client) error {
	bot, err := pillion.Async(ctx, client.Process, loop)
	if err != nil {
		return err
	}
	if err := bot.Process.Register(ctx, "bot"); err != nil {
		return err
	}
	fmt.Println("registered as bot")
	_, err = bot.Await(ctx)
	return err
}

// loop answers ["help", from] and ["date_today", from].
func loop(ctx context.Context, self *pillion.Process) (struct{}, error) {
	for event, err := range self.Events(ctx) {
		if err != nil {
			return struct{}{}, err
		}
		said, err := pillion.Decode[[]string](event.Body)
		if event.Kind != pillion.KindMessage || err != nil || len(said) != 2 {
			continue
		}
		answer := "Unknown message type"
		switch said[0] {
		case "help":
			answer = "You can ask me what today's date is by passing date_today"
		case "date_today":
			answer = "Today's date is " + time.Now().UTC().Format(time.DateOnly)
		}
		if err := self.Send(ctx, said[1], answer); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, ctx.Err()
}

func ask(ctx context.Context, client *pillion.Client, bot, what string) error {
	if _, err := client.Monitor(ctx, bot); err != nil {
		return err
	}
	if err := client.Send(ctx, bot, []string{what, client.PID()}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	event, err := client.Receive(ctx)
	if err != nil {
		return err
	}
	if event.Kind == pillion.KindDown {
		return fmt.Errorf("%s does not answer: %s", bot, event.Reason)
	}
	fmt.Println(event.Body.Value())
	return nil
}
