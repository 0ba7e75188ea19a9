package target

import (
	"slices"

	"github.com/fabrid/fabrid/nvme"
)

// identifySize checks an Identify. What follows is a page, whatever it says.
func (rq *request) identifySize() (uint64, error) {
	f := rq.r.Command.Identify()
	if s := structures[f.CNS]; s == nil || rq.q.ctrl.isDiscovery() && f.CNS != nvme.CNSController {
		return 0, invalidField("CNS", nvme.OffCNS)
	}
	return nvme.IdentifySize, nil
}

// structures is what Identify returns, by CNS.
var structures = [256]func(*controller, nvme.IdentifyCommand) ([]byte, error){
	nvme.CNSNamespace:            (*controller).identifyNamespace,
	nvme.CNSController:           (*controller).identifyController,
	nvme.CNSActiveNamespaces:     (*controller).identifyActive,
	nvme.CNSNamespaceDescriptors: (*controller).identifyDescriptors,
	nvme.CNSNamespaceIOCS:        (*controller).identifyNamespaceIOCS,
	nvme.CNSControllerIOCS:       (*controller).identifyControllerIOCS,
	nvme.CNSNamespaceIndependent: (*controller).identifyIndependent,
}

// identify is Identify.
func (rq *request) identify() error {
	f := rq.r.Command.Identify()
	page, err := structures[f.CNS](rq.q.ctrl, f)
	if err == nil {
		rq.reply(page)
	}
	return err
}

// identifyController is CNS 01h.
func (c *controller) identifyController(nvme.IdentifyCommand) ([]byte, error) {
	s, l := c.subsystem, c.admin.param.Limits
	id := nvme.IdentifyController{
		SN: s.cfg.Serial, MN: s.cfg.Model, FR: s.target.cfg.Firmware,
		RAB:       6,
		CMIC:      nvme.CMICMultiPort | nvme.CMICMultiController,
		MDTS:      mdts(l),
		CNTLID:    c.cntlid,
		VER:       version,
		OAES:      c.supportedEvents(),
		CTRATT:    nvme.CTRATTHostID128 | nvme.CTRATTTBKAS,
		CNTRLTYPE: nvme.ControllerIO,
		ACL:       maxAborts - 1,
		AERL:      maxAER - 1,
		FRMW:      firmwareReadOnly | firmwareSlots<<1,
		LPA:       nvme.LPAEffects | nvme.LPAExtendedData | nvme.LPASupportedLogs,
		ELPE:      errorLogEntries - 1,
		KAS:       kas,
		SQES:      nvme.SQES64,
		CQES:      nvme.CQES16,
		MAXCMD:    uint16(min(s.queueEntries(l), 1<<16-1)),
		SUBNQN:    s.cfg.NQN,
		SGLS:      nvme.SGLSSupported,
		IOCCSZ:    nvme.CommandSize / capsuleUnit,
		IORCSZ:    nvme.CompletionSize / capsuleUnit,
		MSDBD:     uint8(min(max(l.MaxDescriptors, 0), 255)),
	}
	if l.KeyedSGL {
		id.SGLS |= nvme.SGLSKeyed
	}
	if l.OffsetInCap {
		id.SGLS |= nvme.SGLSOffset
	}
	if c.isDiscovery() {
		id.CNTRLTYPE = nvme.ControllerDiscovery
		id.LPA = nvme.LPAExtendedData | nvme.LPASupportedLogs
		return id.AppendTo(nil), nil
	}
	id.IOCCSZ = uint32(nvme.CommandSize+max(l.InCapsule, 0)) / capsuleUnit
	id.NN = MaxNamespaces
	id.MNAN = MaxNamespaces
	id.ONCS = nvme.ONCSCompare | nvme.ONCSWriteUncorrectable | nvme.ONCSDSM | nvme.ONCSWriteZeroes |
		nvme.ONCSSaveFeatures | nvme.ONCSVerify | nvme.ONCSCopy
	id.OCFS = nvme.OCFSFormat0
	// FUSES, AWUN, AWUPF and ACWU are zero: no fused operation, and a write is
	// atomic by the block.
	id.VWC = nvme.VWCFlushBroadcast
	volatile := s.table.Load().volatile()
	c.cacheHidden.Store(!volatile)
	if volatile {
		id.VWC |= nvme.VWCPresent
	}
	return id.AppendTo(nil), nil
}

// capsuleUnit is the unit of IOCCSZ and IORCSZ.
const capsuleUnit = 16

// namespace returns an active namespace, nil if it is inactive, and an error
// if there can be none of that identifier.
func (c *controller) namespace(nsid uint32) (*Namespace, error) {
	if nsid == 0 || nsid > MaxNamespaces {
		return nil, &nvme.FieldError{Status: nvme.InvalidNamespace.WithDNR(), Field: "NSID", Offset: offNSID}
	}
	return c.subsystem.table.Load().find(nsid), nil
}

// activeNamespace is namespace where an inactive one is an error, too.
func (c *controller) activeNamespace(nsid uint32) (*Namespace, error) {
	n, err := c.namespace(nsid)
	if err == nil && n == nil {
		err = &nvme.FieldError{Status: nvme.InvalidNamespace.WithDNR(), Field: "NSID", Offset: offNSID}
	}
	return n, err
}

// identifyNamespace is CNS 00h. An inactive namespace is all zero.
func (c *controller) identifyNamespace(f nvme.IdentifyCommand) ([]byte, error) {
	n, err := c.namespace(f.NSID)
	if err != nil {
		return nil, err
	}
	var id nvme.IdentifyNamespace
	if n != nil {
		size := n.info.Size()
		id = nvme.IdentifyNamespace{
			NSZE: n.info.Blocks, NCAP: n.info.Blocks, NUSE: n.info.Blocks,
			NMIC:   nvme.NMICShared,
			DLFEAT: nvme.DLFEATWriteZeroes,
			NVMCAP: nvme.Uint128{Lo: size},
			MSSRL:  uint16(n.copyLimit()),
			MCL:    uint32(n.copyLimit()),
			MSRC:   copyRanges - 1,
			NSATTR: n.attributes(),
			NGUID:  n.cfg.NGUID,
			EUI64:  n.cfg.EUI64,
		}
		id.LBAF[0] = nvme.LBAFormat{LBADS: uint8(n.shift)}
		if n.info.ZeroAfterDeallocate {
			id.DLFEAT |= nvme.DLFEATReadZeroes
		}
		if n.hasOptimal() {
			unit := func(w int) uint16 { return uint16(min(max(w, 1), 1<<16) - 1) } // 0-based
			id.NSFEAT |= nvme.NSFEATOPTPERF
			id.NPWG, id.NPWA = unit(n.info.OptimalWrite), unit(n.info.OptimalWrite)
			id.NPDG = unit(max(n.info.OptimalDeallocate, n.info.OptimalWrite))
			id.NPDA = id.NPDG
			id.NOWS = unit(max(n.info.OptimalIO, n.info.OptimalWrite))
		}
	}
	return id.AppendTo(nil), nil
}

// hasOptimal reports whether the device has said in what units it is best used.
func (n *Namespace) hasOptimal() bool {
	return n.info.OptimalWrite > 0 || n.info.OptimalIO > 0 || n.info.OptimalDeallocate > 0
}

// attributes returns NSATTR.
func (n *Namespace) attributes() uint8 {
	if n.readOnly() {
		return nvme.NSATTRWriteProtected
	}
	return 0
}

// identifyActive is CNS 02h: the namespaces above the given identifier.
func (c *controller) identifyActive(f nvme.IdentifyCommand) ([]byte, error) {
	if f.NSID >= nvme.NSIDBroadcast-1 {
		return nil, &nvme.FieldError{Status: nvme.InvalidNamespace.WithDNR(), Field: "NSID", Offset: offNSID}
	}
	ids := c.subsystem.table.Load().ids
	i, _ := slices.BinarySearch(ids, f.NSID+1)
	return nvme.AppendNamespaceList(nil, ids[i:]), nil
}

// identifyDescriptors is CNS 03h.
func (c *controller) identifyDescriptors(f nvme.IdentifyCommand) ([]byte, error) {
	n, err := c.activeNamespace(f.NSID)
	if err != nil {
		return nil, err
	}
	return nvme.NamespaceDescriptors{
		EUI64: n.cfg.EUI64, NGUID: n.cfg.NGUID, UUID: n.cfg.UUID, CSI: nvme.CSINVM, HasCSI: true,
	}.AppendTo(nil), nil
}

// checkCSI refuses what is of another command set than NVM.
func checkCSI(f nvme.IdentifyCommand) error {
	if f.CSI != nvme.CSINVM {
		return invalidField("CSI", nvme.OffCSI)
	}
	return nil
}

// identifyNamespaceIOCS is CNS 05h: nothing that CNS 00h does not say.
func (c *controller) identifyNamespaceIOCS(f nvme.IdentifyCommand) ([]byte, error) {
	if err := checkCSI(f); err != nil {
		return nil, err
	}
	if _, err := c.namespace(f.NSID); err != nil {
		return nil, err
	}
	var id nvme.IdentifyNamespaceNVM
	return id.AppendTo(nil), nil
}

// identifyControllerIOCS is CNS 06h: no limits beyond MDTS.
func (c *controller) identifyControllerIOCS(f nvme.IdentifyCommand) ([]byte, error) {
	if err := checkCSI(f); err != nil {
		return nil, err
	}
	var id nvme.IdentifyControllerNVM
	return id.AppendTo(nil), nil
}

// identifyIndependent is CNS 08h. An inactive namespace is all zero.
func (c *controller) identifyIndependent(f nvme.IdentifyCommand) ([]byte, error) {
	n, err := c.namespace(f.NSID)
	if err != nil {
		return nil, err
	}
	var id nvme.IdentifyNamespaceIndependent
	if n != nil {
		id = nvme.IdentifyNamespaceIndependent{NMIC: nvme.NMICShared, NSATTR: n.attributes(), NSTAT: nvme.NSTATReady}
		if n.hasOptimal() {
			id.NSFEAT |= nvme.NSFEATOPTPERF
		}
	}
	return id.AppendTo(nil), nil
}
