package desired

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/starferry/starferry"
)

// The last tokens of the keys of a group in the bucket of desired state.
const (
	placementToken = "placement"
	settingsToken  = "settings"
)

// EncodeKey turns any group or instance name into one token of a NATS subject:
// letters, digits, '-' and '_' stay, every other byte becomes "=xx". It is
// reversible, and no two names share a token.
func EncodeKey(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteString(hex.EncodeToString([]byte{c}))
	}
	return b.String()
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// DecodeKey reads what EncodeKey wrote.
func DecodeKey(token string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		switch c := token[i]; {
		case plain(c):
			b.WriteByte(c)
		case c == '=' && i+2 < len(token):
			x, err := hex.DecodeString(token[i+1 : i+3])
			if err != nil || plain(x[0]) {
				return "", fmt.Errorf("decode key %q: %q is no escape", token, token[i:i+3])
			}
			b.WriteByte(x[0])
			i += 2
		default:
			return "", fmt.Errorf("decode key %q: byte %q does not belong there", token, c)
		}
	}
	return b.String(), nil
}

func groupKey(g starferry.Group, last string) string { return EncodeKey(string(g)) + "." + last }

func leaseKey(g starferry.Group, i starferry.InstanceID) string {
	return groupKey(g, EncodeKey(string(i)))
}

func checkGroup(g starferry.Group) error {
	if g == "" {
		return fmt.Errorf("desired state: the group has no name; give the Kafka consumer group id")
	}
	return nil
}
