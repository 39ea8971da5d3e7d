package consumer

// Kill ends a consumer as kill −9 would: nothing is committed, nobody leaves.
func (c *Consumer) Kill() { c.stop() }
