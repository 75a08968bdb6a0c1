package config

import "testing"

func TestRoom(t *testing.T) {
	t.Parallel()
	for text, bytes := range map[string]uint64{"64MiB": 64 << 20, "1B": 1, "off": 0} {
		c := mustParse(t, minimal+"l1: {size: "+text+"}\n")
		if c.L1.Size.Bytes() != bytes || c.L1.Size.String() != text {
			t.Errorf("%s is %d bytes, and spelled %s", text, c.L1.Size.Bytes(), c.L1.Size)
		}
	}
	if c := mustParse(t, minimal+"    l1: off\n"); c.Entries["product"].L1 != Off {
		t.Errorf("l1 = %q", c.Entries["product"].L1)
	}
}
