package consumer

// Kill ends a consumer as kill −9 would: nothing is committed, nobody leaves.
func (c *Consumer) Kill() { c.stop() }

// Dies lets nothing be sent or handed out from this moment on, and does not wait
// as Kill does.
func (c *Consumer) Dies() {
	c.cancel(errClosed)
	c.giveUp(errClosed)
}

// OnStep has a test told each step of a redistribution before it is taken.
func (c *Config) OnStep(f func(string)) { c.steps = f }
