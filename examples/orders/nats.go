package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/natsconn"
)

// natsFlags are how the service signs in to NATS. Secrets are read from files: a
// command line can be seen by everybody on the machine.
type natsFlags struct {
	natsconn.Config
	tls           starferry.TLS
	password, tok string
}

func (n *natsFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&n.URL, "nats", os.Getenv("NATS_URL"), "NATS server; empty: without")
	flags.StringVar(&n.tls.CAFile, "nats-ca", "", "file with the authorities of NATS's certificate (default: the system's)")
	flags.StringVar(&n.tls.CertFile, "nats-cert", "", "file with the certificate to show to NATS; with -nats-key")
	flags.StringVar(&n.tls.KeyFile, "nats-key", "", "file with its key")
	flags.StringVar(&n.CredsFile, "nats-creds", os.Getenv("NATS_CREDS"), "file with NATS credentials: JWT and seed")
	flags.StringVar(&n.NKeyFile, "nats-nkey", "", "file with an nkey seed")
	flags.StringVar(&n.User, "nats-user", "", "user at NATS; with -nats-password-file")
	flags.StringVar(&n.password, "nats-password-file", "", "file with the password")
	flags.StringVar(&n.tok, "nats-token-file", "", "file with a token")
	flags.StringVar(&n.InboxPrefix, "nats-inbox", "", "prefix of inboxes, as `starferry nats permissions` prints it")
}

// finish reads the files.
func (n *natsFlags) finish() (err error) {
	if n.URL == "" {
		return nil
	}
	if n.tls != (starferry.TLS{}) {
		n.TLS = &n.tls
	}
	if n.Password, err = secretIn("nats-password-file", n.password); err != nil {
		return err
	}
	if n.Token, err = secretIn("nats-token-file", n.tok); err != nil {
		return err
	}
	return n.Check()
}

func secretIn(flag, file string) (starferry.Secret, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	secret := strings.TrimRight(string(text), "\r\n")
	if err == nil && secret == "" {
		err = fmt.Errorf("%s is empty", file)
	}
	if err != nil {
		return "", fmt.Errorf("read -%s: %w", flag, err)
	}
	return starferry.Secret(secret), nil
}
