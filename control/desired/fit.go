package desired

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry/control"
)

// fit refuses a value that says of itself something else than its key, or that
// nobody could obey. Permissions go by keys: who may write one must not speak for
// another by what is in it.
func fit(key string, v any) error {
	switch v := v.(type) {
	case *control.Placement:
		return belongs(key, groupKey(v.Group, placementToken), v.Check)
	case *control.Settings:
		return belongs(key, groupKey(v.Group, settingsToken), v.Check)
	case *control.Fences:
		return belongs(key, groupKey(v.Group, fencesToken), nil)
	case *control.Lease:
		own := leaseKey(v.Group, v.Instance)
		if strings.Count(key, ".") > 1 { // a last word is one of a process
			own += "." + EncodeKey(v.Boot)
		}
		return belongs(key, own, nil)
	case *control.TopicPlacement:
		return belongs(key, EncodeKey(string(v.Topic)), v.Check)
	case *control.ProducerLease:
		return belongs(key, producerKey(*v), nil)
	case *control.Homes:
		return v.Check(nil)
	}
	return nil
}

func belongs(key, own string, check func() error) error {
	if key != own {
		return fmt.Errorf("it says that it belongs under %s", own)
	}
	if check == nil {
		return nil
	}
	return check()
}
