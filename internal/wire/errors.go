package wire

import (
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
)

// ErrNotSent is wrapped by errors of requests that certainly were not carried
// out: no broker has received all their bytes.
var ErrNotSent = errors.New("request was not sent")

// ErrNoAnswer is wrapped by errors of requests that were written and whose
// answer never came: the broker may or may not have carried them out.
var ErrNoAnswer = errors.New("no answer came; the request may or may not have been carried out")

// ErrClosed is wrapped by errors of a connection or cluster that was closed by
// its owner.
var ErrClosed = errors.New("closed")

// ErrFrame is wrapped by errors about bytes from a broker that are no answer
// to what was asked. The connection is given up.
var ErrFrame = errors.New("not a Kafka answer")

// AuthError says that a cluster refused the credentials. It never carries the
// password. It is not retried, unless the broker only closed the connection.
type AuthError struct {
	Cluster   starferry.ClusterName
	Address   string
	Mechanism string
	Username  string
	Err       error
}

// Error implements error.
func (e *AuthError) Error() string {
	return fmt.Sprintf("authenticate to cluster %q at %s as user %q with %s: %v: check username, password and mechanism under sasl in the configuration of this cluster",
		e.Cluster, e.Address, e.Username, e.Mechanism, e.Err)
}

// Unwrap makes ErrNotSent hold beside the cause.
func (e *AuthError) Unwrap() []error { return []error{e.Err, ErrNotSent} }

// VersionError says that a broker and this code have no version of a request
// in common.
type VersionError struct {
	Cluster   starferry.ClusterName
	Address   string
	Request   string
	Have      string // what the broker speaks
	Need      string // what this code speaks
	Remedy    string
	Supported bool // false: the broker does not know the request at all
}

// Error implements error.
func (e *VersionError) Error() string {
	have := "speaks " + e.Request + " " + e.Have
	if !e.Supported {
		have = "does not speak " + e.Request
	}
	return fmt.Sprintf("broker %s of cluster %q %s; starferry needs %s: %s", e.Address, e.Cluster, have, e.Need, e.Remedy)
}

// Unwrap makes errors.Is(err, kafka.UnsupportedVersion) and ErrNotSent hold.
func (e *VersionError) Unwrap() []error { return []error{kafka.UnsupportedVersion, ErrNotSent} }

// PartitionError is what went wrong for one partition of a request.
type PartitionError struct {
	starferry.TopicPartition
	Err error
}

// Error implements error.
func (e *PartitionError) Error() string { return e.TopicPartition.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *PartitionError) Unwrap() error { return e.Err }

// Code returns the error of a Kafka error code, nil for 0.
func Code(code int16) error {
	if code == 0 {
		return nil
	}
	return kafka.Error(code)
}

// coded returns the error of a code with the broker's own words, if it has any.
func coded(code int16, message *string) error {
	err := Code(code)
	if err == nil || message == nil || *message == "" {
		return err
	}
	return fmt.Errorf("%w (the broker says: %s)", err, *message)
}

// joinPartitions makes one error of the failures of several partitions. If all
// the partitions asked for failed alike, the cause stands once.
func joinPartitions(failed []*PartitionError, asked int) error {
	if len(failed) == 0 {
		return nil
	}
	same := len(failed) == asked && asked > 1
	errs := make([]error, len(failed))
	for i, f := range failed {
		errs[i] = f
		same = same && f.Err.Error() == failed[0].Err.Error()
	}
	if same {
		return fmt.Errorf("all %d partitions: %w", asked, failed[0].Err)
	}
	return errors.Join(errs...)
}
