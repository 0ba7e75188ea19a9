package rdma

import (
	"math/bits"

	"github.com/fabrid/fabrid/nvme"
)

// dataPointer is where the data of a command is, as its SGL says. One
// descriptor is all there can be (MSDBD 1).
type dataPointer struct {
	length int

	// keyed: in the host's memory, at address under key.
	keyed   bool
	address uint64
	key     uint32
	// invalidate: the host asked for key to be invalidated by the response.
	invalidate bool

	// Otherwise, in the capsule, at this offset behind the command.
	offset int
}

// parseSGL reads the SGL of cmd. inCapsule is how many bytes of the capsule
// followed the command, maxData the most data a command may have.
//
// The key of a keyed descriptor is to be invalidated also by a response with
// an error, but only if the descriptor was understood: that is why the pointer
// is returned beside the status.
func parseSGL(cmd nvme.Command, inCapsule, maxData int) (dataPointer, nvme.Status) {
	// PRPs do not exist in fabrics, and metadata is not described by an SGL
	// here [Base 4.1.1].
	if cmd.PSDT() != nvme.PSDTSGL {
		return dataPointer{}, nvme.InvalidField.WithDNR()
	}
	switch sgl := cmd.SGL(); sgl.Type {
	case nvme.SGLKeyed, nvme.SGLKeyedInvalidate:
		return parseKeyed(cmd, sgl, maxData)
	case nvme.SGLOffset:
		return parseOffset(cmd, sgl, inCapsule, maxData)
	default:
		return dataPointer{}, nvme.SGLInvalidType.WithDNR()
	}
}

func parseKeyed(cmd nvme.Command, sgl nvme.SGL, maxData int) (dataPointer, nvme.Status) {
	p := dataPointer{
		length:     int(sgl.Length),
		keyed:      true,
		address:    sgl.Address,
		key:        sgl.Key,
		invalidate: sgl.Invalidate(),
	}
	// The last byte must have an address: address+length-1 fits 64 bits.
	_, carry := bits.Add64(sgl.Address, uint64(max(sgl.Length, 1))-1, 0)
	switch {
	case carry != 0:
		return p, nvme.SGLInvalidDataLength.WithDNR()
	case p.length > 0 && cmd.Direction() == nvme.Bidirectional:
		return p, nvme.InvalidField.WithDNR()
	case p.length > maxData:
		return p, nvme.InvalidField.WithDNR() // as for MDTS [Base 5.1.13]
	}
	return p, nvme.Success
}

func parseOffset(cmd nvme.Command, sgl nvme.SGL, inCapsule, maxData int) (dataPointer, nvme.Status) {
	if sgl.Length == 0 {
		return dataPointer{}, nvme.Success
	}
	if cmd.Direction() != nvme.HostToController {
		return dataPointer{}, nvme.InvalidField.WithDNR()
	}
	// In 64 bits, and without a sum that could wrap.
	there := uint64(inCapsule)
	if sgl.Address > there || uint64(sgl.Length) > there-sgl.Address {
		return dataPointer{}, nvme.SGLInvalidOffset.WithDNR()
	}
	if uint64(sgl.Length) > uint64(maxData) {
		return dataPointer{}, nvme.InvalidField.WithDNR()
	}
	return dataPointer{length: int(sgl.Length), offset: int(sgl.Address)}, nvme.Success
}
