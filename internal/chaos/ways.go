package chaos

import (
	"errors"

	"github.com/starferry/starferry/internal/chaos/proxy"
)

// ways are what one party, a process, reaches the clusters and NATS by.
type ways struct {
	kafka [2]*proxy.Proxy // to old and new
	nats  *proxy.Proxy
	// What a party is told: addresses of old and new, and the URL of NATS.
	addresses [2]string
	natsURL   string
}

// waysOf returns the ways of a party, made when they are asked for first.
func (w *World) waysOf(party string) (*ways, error) {
	if v := w.ways[party]; v != nil {
		return v, nil
	}
	v := &ways{}
	if w.direct {
		v.addresses, v.natsURL = w.Addresses, "nats://"+w.natsAddress
		return v, nil
	}
	var err error
	for i, a := range w.Addresses {
		if v.kafka[i], err = proxy.Open(a); err != nil {
			return nil, err
		}
		w.OnClose(func() { _ = v.kafka[i].Close() })
		if v.addresses[i], err = v.kafka[i].Address(a); err != nil {
			return nil, err
		}
	}
	if v.nats, err = proxy.OpenRaw(w.natsAddress); err != nil {
		return nil, err
	}
	w.OnClose(func() { _ = v.nats.Close() })
	address, err := v.nats.Address(w.natsAddress)
	v.natsURL = "nats://" + address
	w.ways[party] = v
	return v, err
}

// all are the proxies of a party.
func (v *ways) all() []*proxy.Proxy { return []*proxy.Proxy{v.kafka[0], v.kafka[1], v.nats} }

// clear makes the weather fine again and takes down all tricks.
func (w *World) clear() {
	for _, v := range w.ways {
		for _, p := range v.all() {
			p.Set(proxy.Weather{})
			p.Forget()
		}
	}
}

// weather holds on some ways of some parties until clear.
func (w *World) weather(k proxy.Weather, parties ...string) error {
	for _, name := range parties {
		v := w.ways[name]
		if v == nil {
			return errors.New("no ways of " + name)
		}
		for _, p := range v.kafka {
			p.Set(k)
		}
	}
	return nil
}
