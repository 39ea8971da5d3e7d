package consumer_test

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

// A service of its own names its group, its topics and all clusters the group
// may ever live on.
func ExampleOpen() {
	ctx := context.Background()
	c, err := consumer.Open(ctx, consumer.Config{
		Group:  "billing",
		Topics: []starferry.Topic{"orders"},
		Clusters: []starferry.Cluster{
			{Name: "dc1", Brokers: []string{"kafka-1.dc1:9092"}},
			{Name: "dc2", Brokers: []string{"kafka-1.dc2:9092"}},
		},
		Home:        "dc1",
		Start:       consumer.Earliest,
		Parallelism: 16,
		Failure: consumer.Failure{
			Attempts:   5,
			Retries:    []consumer.Retry{{Topic: "billing.retry-1m", After: time.Minute}},
			DeadLetter: "billing.dead",
		},
	}, func(_ context.Context, r consumer.Record) error {
		fmt.Printf("%s\n", r.Value)
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(ctx) //nolint:errcheck // an example
}
