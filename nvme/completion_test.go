package nvme

import "testing"

func TestCompletionGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Completion
	}{
		{"cqe_property_get_cap", Completion{Result: 0x000008200F0003FF, SQHD: 2, CID: 1}},
		{"cqe_connect_io", Completion{Result: 1, SQHD: 1, SQID: 2}},
		{"cqe_set_features_queues", Completion{Result: 0x007F007F, SQHD: 12, CID: 0x1016}},
		{"cqe_aer_aborted", Completion{SQHD: 29, CID: 0x1F, Status: InternalError.WithDNR()}},
	} {
		b := golden(t, tt.name)
		var got Completion
		if err := got.Parse(b); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
		same(t, tt.name+" appended", got.AppendTo(nil), b)
		put := make([]byte, CompletionSize)
		got.Put(put)
		same(t, tt.name+" put", put, b)
	}
}

func TestCompletionIgnoresPhase(t *testing.T) {
	b := make([]byte, CompletionSize)
	b[14] = 1
	var c Completion
	if err := c.Parse(b); err != nil || !c.Status.OK() || c.Status != Success {
		t.Errorf("%+v, %v", c, err)
	}
	if c.AppendTo(nil)[14] != 0 {
		t.Error("phase tag written")
	}
}

func FuzzCompletion(f *testing.F) {
	f.Add(golden(f, "cqe_aer_aborted"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Completion
		if err := c.Parse(b); err != nil {
			return
		}
		want := append([]byte(nil), b[:CompletionSize]...)
		want[14] &^= 1 // the phase tag
		same(t, "again", c.AppendTo(nil), want)
		_ = c.Status.String()
	})
}
