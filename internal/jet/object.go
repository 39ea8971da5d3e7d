package jet

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// objectChunk is the size of the messages that an object is stored in, bytes.
const objectChunk = 128 << 10

// PutObject puts an object into an object store (ADR-20 of NATS), over the old
// one if there is one. It waits for each message, so a large object does not
// flood the server. The client's own Put starts a goroutine for each object that
// stays for ever if it is ended before it has begun (nats.go 1.55).
func PutObject(ctx context.Context, js jetstream.JetStream, bucket string, meta jetstream.ObjectMeta, data []byte, old *jetstream.ObjectInfo) error {
	if meta.Opts == nil {
		meta.Opts = &jetstream.ObjectMetaOptions{ChunkSize: objectChunk}
	}
	digest := sha256.New()
	digest.Write(data)
	info := jetstream.ObjectInfo{
		ObjectMeta: meta, Bucket: bucket, NUID: nuid.Next(), Size: uint64(len(data)), Digest: jetstream.GetObjectDigestValue(digest),
	}
	for chunk := range slices.Chunk(data, objectChunk) {
		if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: chunksOf(bucket, info.NUID), Data: chunk}); err != nil {
			purge(context.WithoutCancel(ctx), js, bucket, info.NUID)
			return fmt.Errorf("put object %s of %s: %w", meta.Name, bucket, err)
		}
		info.Chunks++
	}
	body, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("put object %s of %s: %w", meta.Name, bucket, err)
	}
	head := nats.NewMsg("$O." + bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(meta.Name)))
	head.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	head.Data = body
	if _, err := js.PublishMsg(ctx, head); err != nil {
		// It may stand all the same: the chunks must stay.
		return fmt.Errorf("put object %s of %s: %w", meta.Name, bucket, err)
	}
	if old != nil {
		purge(ctx, js, bucket, old.NUID)
	}
	return nil
}

func chunksOf(bucket, id string) string { return "$O." + bucket + ".C." + id }

// purge takes away chunks that no object has any more. Those it cannot reach
// only take room.
func purge(ctx context.Context, js jetstream.JetStream, bucket, id string) {
	s, err := js.Stream(ctx, "OBJ_"+bucket)
	if err == nil {
		_ = s.Purge(ctx, jetstream.WithPurgeSubject(chunksOf(bucket, id))) // tried once
	}
}
