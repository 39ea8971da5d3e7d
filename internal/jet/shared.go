package jet

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SharedKeyValue is KeyValue for a bucket whose keys belong to many: it takes no
// roll-ups. With them a message on any one key may take away all of the bucket
// (Nats-Rollup: all), whatever else its sender may write.
func SharedKeyValue(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	return open(ctx, func(ctx context.Context) (jetstream.KeyValue, error) {
		kv, err := js.KeyValue(ctx, cfg.Bucket)
		if !errors.Is(err, jetstream.ErrBucketNotFound) {
			return kv, err
		}
		if _, err = js.CreateStream(ctx, sharedStream(cfg)); err != nil {
			return nil, err
		}
		return js.KeyValue(ctx, cfg.Bucket)
	})
}

// sharedStream is the stream that the client makes for a bucket (ADR-8 of NATS),
// without roll-ups.
func sharedStream(cfg jetstream.KeyValueConfig) jetstream.StreamConfig {
	s := jetstream.StreamConfig{
		Name: Bucket(cfg.Bucket), Description: cfg.Description, Subjects: []string{"$KV." + cfg.Bucket + ".>"},
		MaxMsgsPerSubject: max(1, int64(cfg.History)), MaxAge: cfg.TTL, Storage: cfg.Storage, Replicas: max(1, cfg.Replicas),
		Discard: jetstream.DiscardNew, DenyDelete: true, AllowDirect: true, RePublish: cfg.RePublish,
		MaxBytes: -1, MaxMsgSize: -1, MaxMsgs: -1, MaxConsumers: -1, Duplicates: 2 * time.Minute,
	}
	if cfg.TTL > 0 {
		s.Duplicates = min(s.Duplicates, cfg.TTL)
	}
	return s
}
