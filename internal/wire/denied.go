package wire

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/acl"
)

// DeniedError says that a cluster's authorizer let us not do something, and which
// ACL would. It holds the code: errors.Is with kafka.TopicAuthorizationFailed and
// its like is as true as it was. It is not retried here.
type DeniedError struct {
	Cluster   starferry.ClusterName
	Principal string // such as User:billing; empty if only the brokers know
	Request   string // that was refused, by its name in Kafka's protocol; empty: none was sent yet
	Right     acl.Right
	Name      string // of the resource; empty if it is not known
	Code      kafka.Error
}

// Error implements error.
func (e *DeniedError) Error() string {
	what := "kafka-cluster"
	if e.Right.Resource != acl.Cluster {
		what = string(e.Right.Resource) + " " + cmp.Or(e.Name, "(unnamed)")
	}
	line := acl.Line{Resource: e.Right.Resource, Names: []string{cmp.Or(e.Name, "NAME")}, Operation: e.Right.Operation}
	at := ""
	if e.Request != "" {
		at = " (" + e.Request + ")"
	}
	return fmt.Sprintf("%s: %s lacks the ACL %s on %s of cluster %q%s: %s; `starferry kafka acls` lists all that is needed",
		e.Code.Title(), cmp.Or(e.Principal, "our principal"), e.Right.Operation, what, e.Cluster, at,
		line.Command("", cmp.Or(e.Principal, "User:NAME")))
}

// Unwrap returns the code.
func (e *DeniedError) Unwrap() error { return e.Code }

// On is what a request is about, as far as it may be refused for it.
type On struct {
	Topic starferry.Topic
	Group starferry.Group
	TxID  string
}

// Code returns the error of an answer's code, nil for 0. What the cluster's
// authorizer refuses is a *DeniedError that tells which ACL lacks.
func (c *Cluster) Code(request kmsg.Key, code int16, on On) error {
	return c.Denied(request, Code(code), on)
}

// Denied is Code for an error that has been made of a code.
func (c *Cluster) Denied(request kmsg.Key, err error, on On) error {
	resource, name := refusedFor(err, on)
	if resource == "" {
		return err
	}
	var code kafka.Error
	var told *DeniedError
	if errors.As(err, &told) || !errors.As(err, &code) {
		return err
	}
	api := kmsg.NameForKey(request.Int16())
	return &DeniedError{Cluster: c.conf.Name, Principal: c.Principal(), Request: api, Name: name, Code: code,
		Right: acl.Right{Resource: resource, Operation: cmp.Or(acl.NeededOn(api, resource), acl.Describe)}}
}

// refusedFor is the kind of resource an authorizer refused, "" if it did not.
func refusedFor(err error, on On) (acl.Resource, string) {
	switch {
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		return acl.Topic, string(on.Topic)
	case errors.Is(err, kafka.GroupAuthorizationFailed):
		return acl.Group, string(on.Group)
	case errors.Is(err, kafka.TransactionalIDAuthorizationFailed):
		return acl.TxID, on.TxID
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		return acl.Cluster, acl.ClusterName
	}
	return "", ""
}

// Principal is who the cluster takes us for, if we know: its brokers may have
// rules of their own for names in certificates.
func (c *Cluster) Principal() string {
	switch {
	case c.conf.SASL != nil:
		return "User:" + c.conf.SASL.Username
	case c.tls != nil && len(c.tls.Certificates) > 0 && c.tls.Certificates[0].Leaf != nil:
		return "User:" + c.tls.Certificates[0].Leaf.Subject.String()
	case c.tls != nil:
		return ""
	}
	return "User:ANONYMOUS"
}

// refused returns what an answer of a coordinator says of the request as a whole
// if that is an authorizer's refusal.
func (c *Cluster) refused(at coordinator, req kmsg.Request, resp kmsg.Response) error {
	on := On{Group: starferry.Group(at.key)}
	if at.kind == 1 {
		on = On{TxID: at.key}
	}
	switch r := req.(type) {
	case *kmsg.AddOffsetsToTxnRequest:
		on.Group = starferry.Group(r.Group)
	case *kmsg.TxnOffsetCommitRequest:
		on.TxID = r.TransactionalID
	}
	for _, code := range codes(resp) {
		if e := kafka.Error(code); e == kafka.GroupAuthorizationFailed || e == kafka.TransactionalIDAuthorizationFailed {
			return c.Code(kmsg.Key(req.Key()), code, on)
		}
	}
	return nil
}
