package producer

import (
	"testing"

	"github.com/starferry/starferry/internal/kafkatest"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }
