// Prints the records of the feed and stores its position in a file.
//
//	go run . 127.0.0.1:50051 position.json
//
// Stop it and start it again: it resumes after the last message that it handled.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	deskv1 "consumer/desk/v1"
)

// The service promises a message every 5 s, and every 20 s while it has thousands of streams.
const silence = 30 * time.Second

type consumer struct {
	client deskv1.EventServiceClient
	file   string

	// Where to resume; stored in the file.
	Position struct {
		JournalID string `json:"journal_id"`
		Revision  int64  `json:"revision"`
	}

	// The last record handled by this process.
	revision int64
	ordinal  int32
	attempt  int
}

func (c *consumer) load() error {
	content, err := os.ReadFile(c.file)
	if os.IsNotExist(err) {
		return nil // the first start: from the oldest record on
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(content, &c.Position)
}

func (c *consumer) save() error {
	content, err := json.Marshal(c.Position)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(c.file+".new", c.file)
}

func (c *consumer) handle(response *deskv1.SubscribeResponse) error {
	for _, record := range response.GetRecords().GetRecords() {
		// A revision that came in parts is repeated by a resumed stream.
		if record.Revision < c.revision ||
			record.Revision == c.revision && record.Ordinal <= c.ordinal {
			continue
		}
		event := record.Event
		fmt.Println(record.Revision, event.SessionId, event.TypeName, record.SessionState)
		c.revision, c.ordinal = record.Revision, record.Ordinal
	}
	// After the effects, and of every message: progress without records counts, too.
	c.Position.JournalID = response.Header.JournalId
	c.Position.Revision = response.Header.Revision
	return c.save()
}

// follow reads one stream until it breaks.
func (c *consumer) follow() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := time.AfterFunc(silence, cancel)
	defer timer.Stop()
	stream, err := c.client.Subscribe(ctx, &deskv1.SubscribeRequest{
		AfterRevision: &c.Position.Revision,
		JournalId:     c.Position.JournalID,
	})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		timer.Reset(silence)
		c.attempt = 0
		if err := c.handle(response); err != nil {
			log.Fatal(err)
		}
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: consumer HOST:PORT FILE")
	}
	connection, err := grpc.NewClient(
		os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	c := &consumer{client: deskv1.NewEventServiceClient(connection), file: os.Args[2]}
	if err := c.load(); err != nil {
		log.Fatal(err)
	}
	for {
		err := c.follow()
		switch status.Code(err) {
		case codes.FailedPrecondition, // the service has another journal: start over
			codes.OutOfRange, // the records after this position are no longer kept: start over
			codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied:
			log.Fatal(err)
		}
		longest := 10 * time.Second
		if c.attempt < 5 {
			longest = 200 * time.Millisecond << c.attempt
		}
		c.attempt++
		delay := longest/2 + time.Duration(rand.Int63n(int64(longest/2)))
		log.Printf("connection lost (%v), trying again in %v", err, delay.Round(time.Millisecond))
		time.Sleep(delay)
	}
}
