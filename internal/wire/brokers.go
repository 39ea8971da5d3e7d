package wire

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokerSettings asks a broker for settings of its own by name. Those that it
// does not tell are not in the answer.
func (c *Cluster) BrokerSettings(ctx context.Context, broker int32, names ...string) (map[string]string, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	res := kmsg.NewDescribeConfigsRequestResource()
	res.ResourceType, res.ResourceName, res.ConfigNames = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(broker)), names
	req.Resources = append(req.Resources, res)
	r, err := c.DoOn(ctx, broker, req)
	if err != nil {
		return nil, fmt.Errorf("read settings of broker %d: %w", broker, err)
	}
	found := map[string]string{}
	for _, res := range r.(*kmsg.DescribeConfigsResponse).Resources {
		if err := c.Denied(kmsg.DescribeConfigs, coded(res.ErrorCode, res.ErrorMessage), On{}); err != nil {
			return nil, fmt.Errorf("read settings of broker %d of cluster %q: %w", broker, c.conf.Name, err)
		}
		for _, e := range res.Configs {
			if e.Value != nil {
				found[e.Name] = *e.Value
			}
		}
	}
	return found, nil
}
