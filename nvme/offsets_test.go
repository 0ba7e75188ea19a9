package nvme

import (
	"reflect"
	"strings"
	"testing"
)

// A place is where a field is on the wire. The tables below say so a second
// time, as the specification's figures do, so that the layouts can be checked
// against them.
type place struct {
	field     string
	off, size int
}

// A structure is a struct with its size and the places of all its fields.
type structure struct {
	name   string
	size   int
	value  any // pointer to a zero value
	encode func(any) []byte
	decode func(any, []byte) error
	places []place
}

type codec interface {
	AppendTo([]byte) []byte
	Parse([]byte) error
}

func ofCodec(name string, size int, v codec, places ...place) structure {
	return structure{
		name: name, size: size, value: v, places: places,
		encode: func(v any) []byte { return v.(codec).AppendTo(nil) },
		decode: func(v any, b []byte) error { return v.(codec).Parse(b) },
	}
}

var structures = []structure{
	ofCodec("Completion", 16, new(Completion),
		place{"Result", 0, 8}, place{"SQHD", 8, 2}, place{"SQID", 10, 2}, place{"CID", 12, 2}, place{"Status", 14, 2}),
	ofCodec("ConnectData", 1024, new(ConnectData),
		place{"HostID", 0, 16}, place{"CNTLID", 16, 2}, place{"SUBNQN", 256, nqnText}, place{"HOSTNQN", 512, nqnText}),
	ofCodec("DSMRange", 16, new(DSMRange),
		place{"CATTR", 0, 4}, place{"NLB", 4, 4}, place{"SLBA", 8, 8}),
	ofCodec("RDMACMRequest", 32, new(RDMACMRequest),
		place{"QID", 2, 2}, place{"HRQSIZE", 4, 2}, place{"HSQSIZE", 6, 2}, place{"CNTLID", 8, 2}),
	ofCodec("RDMACMReply", 32, new(RDMACMReply), place{"CRQSIZE", 2, 2}),
	ofCodec("RDMACMReject", 4, new(RDMACMReject), place{"Status", 2, 2}),
	ofCodec("DiscoveryHeader", 1024, new(DiscoveryHeader),
		place{"GENCTR", 0, 8}, place{"NUMREC", 8, 8}, place{"RECFMT", 16, 2}),
	ofCodec("DiscoveryEntry", 1024, new(DiscoveryEntry),
		place{"TRTYPE", 0, 1}, place{"ADRFAM", 1, 1}, place{"SUBTYPE", 2, 1}, place{"TREQ", 3, 1},
		place{"PORTID", 4, 2}, place{"CNTLID", 6, 2}, place{"ASQSZ", 8, 2}, place{"EFLAGS", 10, 2},
		place{"TRSVCID", 32, 32}, place{"SUBNQN", 256, nqnText}, place{"TRADDR", 512, 256}, place{"TSAS", 768, 256}),
	ofCodec("ErrorLogEntry", 64, new(ErrorLogEntry),
		place{"ErrorCount", 0, 8}, place{"SQID", 8, 2}, place{"CID", 10, 2}, place{"Status", 12, 2},
		place{"Location", 14, 2}, place{"LBA", 16, 8}, place{"NSID", 24, 4}, place{"VSIA", 28, 1},
		place{"TRTYPE", 29, 1}, place{"CSI", 30, 1}, place{"Opcode", 31, 1}, place{"CSInfo", 32, 8},
		place{"TTSI", 40, 2}, place{"Version", 63, 1}),
	ofCodec("FirmwareSlotLog", 512, new(FirmwareSlotLog), place{"AFI", 0, 1}, place{"FRS", 8, 56}),
	ofCodec("CopyRange", 32, new(CopyRange), place{"SLBA", 8, 8}, place{"NLB", 16, 2}),
	ofCodec("SupportedLogPages", 1024, new(SupportedLogPages), place{"LID", 0, 1024}),
	ofCodec("FeatureEffectsLog", 1024, new(FeatureEffectsLog), place{"FIS", 0, 1024}),
	ofCodec("MIEffectsLog", 4096, new(MIEffectsLog), place{"MICS", 0, 1024}),
	ofCodec("EffectsLog", 4096, new(EffectsLog), place{"ACS", 0, 1024}, place{"IOCS", 1024, 1024}),
	ofCodec("SMARTLog", 512, new(SMARTLog),
		place{"CriticalWarning", 0, 1}, place{"Temperature", 1, 2}, place{"AvailableSpare", 3, 1},
		place{"SpareThreshold", 4, 1}, place{"PercentageUsed", 5, 1}, place{"EnduranceWarning", 6, 1},
		place{"DataUnitsRead", 32, 16}, place{"DataUnitsWritten", 48, 16}, place{"HostReads", 64, 16},
		place{"HostWrites", 80, 16}, place{"ControllerBusyTime", 96, 16}, place{"PowerCycles", 112, 16},
		place{"PowerOnHours", 128, 16}, place{"UnsafeShutdowns", 144, 16}, place{"MediaErrors", 160, 16},
		place{"ErrorLogEntries", 176, 16}, place{"WarningTempTime", 192, 4}, place{"CriticalTempTime", 196, 4},
		place{"TemperatureSensors", 200, 16}, place{"ThermalTransitions1", 216, 4},
		place{"ThermalTransitions2", 220, 4}, place{"ThermalTime1", 224, 4}, place{"ThermalTime2", 228, 4}),
	ofCodec("IdentifyControllerNVM", 4096, new(IdentifyControllerNVM),
		place{"VSL", 0, 1}, place{"WZSL", 1, 1}, place{"WUSL", 2, 1}, place{"DMRL", 3, 1},
		place{"DMRSL", 4, 4}, place{"DMSL", 8, 8}),
	ofCodec("IdentifyNamespaceIndependent", 4096, new(IdentifyNamespaceIndependent),
		place{"NSFEAT", 0, 1}, place{"NMIC", 1, 1}, place{"RESCAP", 2, 1}, place{"FPI", 3, 1},
		place{"ANAGRPID", 4, 4}, place{"NSATTR", 8, 1}, place{"NVMSETID", 10, 2}, place{"ENDGID", 12, 2},
		place{"NSTAT", 14, 1}),
	ofCodec("IdentifyNamespaceNVM", 4096, new(IdentifyNamespaceNVM),
		place{"LBSTM", 0, 8}, place{"PIC", 8, 1}, place{"ELBAF", 12, 256}),
	ofCodec("IdentifyNamespace", 4096, new(IdentifyNamespace),
		place{"NSZE", 0, 8}, place{"NCAP", 8, 8}, place{"NUSE", 16, 8}, place{"NSFEAT", 24, 1},
		place{"NLBAF", 25, 1}, place{"FLBAS", 26, 1}, place{"MC", 27, 1}, place{"DPC", 28, 1}, place{"DPS", 29, 1},
		place{"NMIC", 30, 1}, place{"RESCAP", 31, 1}, place{"FPI", 32, 1}, place{"DLFEAT", 33, 1},
		place{"NAWUN", 34, 2}, place{"NAWUPF", 36, 2}, place{"NACWU", 38, 2}, place{"NABSN", 40, 2},
		place{"NABO", 42, 2}, place{"NABSPF", 44, 2}, place{"NOIOB", 46, 2}, place{"NVMCAP", 48, 16},
		place{"NPWG", 64, 2}, place{"NPWA", 66, 2}, place{"NPDG", 68, 2}, place{"NPDA", 70, 2}, place{"NOWS", 72, 2},
		place{"MSSRL", 74, 2}, place{"MCL", 76, 4}, place{"MSRC", 80, 1}, place{"ANAGRPID", 92, 4},
		place{"NSATTR", 99, 1}, place{"NVMSETID", 100, 2}, place{"ENDGID", 102, 2}, place{"NGUID", 104, 16},
		place{"EUI64", 120, 8}, place{"LBAF", 128, 256}),
	ofCodec("IdentifyController", 4096, new(IdentifyController),
		place{"VID", 0, 2}, place{"SSVID", 2, 2}, place{"SN", 4, 20}, place{"MN", 24, 40}, place{"FR", 64, 8},
		place{"RAB", 72, 1}, place{"IEEE", 73, 3}, place{"CMIC", 76, 1}, place{"MDTS", 77, 1}, place{"CNTLID", 78, 2},
		place{"VER", 80, 4}, place{"RTD3R", 84, 4}, place{"RTD3E", 88, 4}, place{"OAES", 92, 4}, place{"CTRATT", 96, 4},
		place{"RRLS", 100, 2}, place{"CNTRLTYPE", 111, 1}, place{"FGUID", 112, 16}, place{"CRDT1", 128, 2},
		place{"CRDT2", 130, 2}, place{"CRDT3", 132, 2}, place{"NVMSR", 253, 1}, place{"VWCI", 254, 1}, place{"MEC", 255, 1},
		place{"OACS", 256, 2}, place{"ACL", 258, 1}, place{"AERL", 259, 1}, place{"FRMW", 260, 1}, place{"LPA", 261, 1},
		place{"ELPE", 262, 1}, place{"NPSS", 263, 1}, place{"AVSCC", 264, 1}, place{"APSTA", 265, 1},
		place{"WCTEMP", 266, 2}, place{"CCTEMP", 268, 2}, place{"MTFA", 270, 2}, place{"HMPRE", 272, 4},
		place{"HMMIN", 276, 4}, place{"TNVMCAP", 280, 16}, place{"UNVMCAP", 296, 16}, place{"RPMBS", 312, 4},
		place{"EDSTT", 316, 2}, place{"DSTO", 318, 1}, place{"FWUG", 319, 1}, place{"KAS", 320, 2},
		place{"HCTMA", 322, 2}, place{"MNTMT", 324, 2}, place{"MXTMT", 326, 2}, place{"SANICAP", 328, 4},
		place{"HMMINDS", 332, 4}, place{"HMMAXD", 336, 2}, place{"NSETIDMAX", 338, 2}, place{"ENDGIDMAX", 340, 2},
		place{"ANATT", 342, 1}, place{"ANACAP", 343, 1}, place{"ANAGRPMAX", 344, 4}, place{"NANAGRPID", 348, 4},
		place{"PELS", 352, 4}, place{"DomainID", 356, 2}, place{"MEGCAP", 368, 16}, place{"CQT", 386, 2},
		place{"SQES", 512, 1}, place{"CQES", 513, 1}, place{"MAXCMD", 514, 2}, place{"NN", 516, 4}, place{"ONCS", 520, 2},
		place{"FUSES", 522, 2}, place{"FNA", 524, 1}, place{"VWC", 525, 1}, place{"AWUN", 526, 2}, place{"AWUPF", 528, 2},
		place{"ICSVSCC", 530, 1}, place{"NWPC", 531, 1}, place{"ACWU", 532, 2}, place{"OCFS", 534, 2}, place{"SGLS", 536, 4},
		place{"MNAN", 540, 4}, place{"MAXDNA", 544, 16}, place{"MAXCNA", 560, 4}, place{"SUBNQN", 768, nqnText},
		place{"IOCCSZ", 1792, 4}, place{"IORCSZ", 1796, 4}, place{"ICDOFF", 1800, 2}, place{"FCATT", 1802, 1},
		place{"MSDBD", 1803, 1}, place{"OFCS", 1804, 2}, place{"DCTYPE", 1806, 1}, place{"PSD", 2048, 1024}),
	{
		name: "PowerState", size: powerStateSize, value: new(PowerState),
		encode: func(v any) []byte {
			b := make([]byte, powerStateSize)
			v.(*PowerState).layout(layout{b, true})
			return b
		},
		decode: func(v any, b []byte) error { v.(*PowerState).layout(layout{b, false}); return nil },
		places: []place{{"MP", 0, 2}, {"Flags", 3, 1}, {"ENLAT", 4, 4}, {"EXLAT", 8, 4}, {"RRT", 12, 1}, {"RRL", 13, 1},
			{"RWT", 14, 1}, {"RWL", 15, 1}, {"IDLP", 16, 2}, {"IPS", 18, 1}, {"ACTP", 20, 2}, {"APWS", 22, 1}},
	},
}

// nqnText is how much of an NQN field a name can fill: a NUL stays.
const nqnText = NQNFieldSize - 1

// sparse fields have reserved bytes inside.
var sparse = map[string]bool{"IdentifyController.PSD": true}

// TestOffsets fills one field at a time with ones and sees which bytes of the
// encoding change, then decodes and must find the same value.
func TestOffsets(t *testing.T) {
	for _, s := range structures {
		t.Run(s.name, func(t *testing.T) {
			typ := reflect.TypeOf(s.value).Elem()
			empty := s.encode(reflect.New(typ).Interface())
			if len(empty) != s.size {
				t.Fatalf("%d bytes, want %d", len(empty), s.size)
			}
			if typ.NumField() != len(s.places) {
				t.Errorf("%d fields, table has %d", typ.NumField(), len(s.places))
			}
			for _, p := range s.places {
				v := reflect.New(typ)
				f := v.Elem().FieldByName(p.field)
				if !f.IsValid() {
					t.Errorf("no field %s", p.field)
					continue
				}
				fill(f, p.size)
				b := s.encode(v.Interface())
				for i := range b {
					in := i >= p.off && i < p.off+p.size
					changed := b[i] != empty[i]
					if changed != in && (changed || !sparse[s.name+"."+p.field]) {
						t.Errorf("%s: byte %d changed %v, place is %d:%d", p.field, i, changed, p.off, p.size)
						break
					}
				}
				back := reflect.New(typ)
				if err := s.decode(back.Interface(), b); err != nil && !strings.Contains(err.Error(), "NQN") {
					t.Errorf("%s: %v", p.field, err)
				}
				if got := back.Elem().FieldByName(p.field).Interface(); s.name != "ConnectData" && !reflect.DeepEqual(got, f.Interface()) {
					t.Errorf("%s: decoded %v, want %v", p.field, got, f.Interface())
				}
			}
		})
	}
}

// fill sets every bit of v, and strings to size characters.
func fill(v reflect.Value, size int) {
	switch v.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<v.Type().Bits() - 1)
		if v.Type() == reflect.TypeFor[Status]() {
			v.SetUint(statusMask)
		}
	case reflect.String:
		v.SetString(strings.Repeat("x", size))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), size/v.Len())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), 0)
		}
	default:
		panic("fill: " + v.Type().String())
	}
}

// TestWrongLengths decodes one byte less and one more than each structure has:
// less is always an error, more only where the size is exact.
func TestWrongLengths(t *testing.T) {
	for _, s := range structures {
		if s.name == "PowerState" || s.name == "DiscoveryHeader" {
			continue // the first has no Parse; the second needs only its fields
		}
		v := reflect.New(reflect.TypeOf(s.value).Elem()).Interface()
		if err := s.decode(v, make([]byte, s.size-1)); err == nil {
			t.Errorf("%s: %d bytes decoded", s.name, s.size-1)
		}
		if err := s.decode(v, nil); err == nil {
			t.Errorf("%s: no bytes decoded", s.name)
		}
	}
	for _, v := range []codec{new(IdentifyController), new(IdentifyNamespace), new(ConnectData), new(SMARTLog), new(EffectsLog)} {
		if err := v.Parse(make([]byte, len(v.AppendTo(nil))+1)); err == nil {
			t.Errorf("%T: one byte too many decoded", v)
		}
	}
}

// TestAppendKeepsPrefix appends behind what is there, and to memory that was
// used before: reserved bytes must be zero all the same.
func TestAppendKeepsPrefix(t *testing.T) {
	for _, s := range structures {
		v, ok := s.value.(codec)
		if !ok {
			continue
		}
		dirty := []byte(strings.Repeat("\xCC", s.size+3))[:3]
		got, want := v.AppendTo(dirty), v.AppendTo(nil)
		if string(got[:3]) != "\xCC\xCC\xCC" || string(got[3:]) != string(want) {
			t.Errorf("%s: AppendTo depends on what is in the slice", s.name)
		}
	}
}
