package chaos

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A body is
//
//	publisher u32 | message u32 | filler | crc32c of what came before u32
const bodySize = 12

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeBody makes a message's body of at least 12 bytes; its filler follows from its number.
func encodeBody(publisher, id uint32, size int) []byte {
	b := make([]byte, max(size, bodySize))
	binary.BigEndian.PutUint32(b, publisher)
	binary.BigEndian.PutUint32(b[4:], id)
	for i := 8; i < len(b)-4; i++ {
		b[i] = byte(id*31 + uint32(i)*7)
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
	return b
}

var errBody = errors.New("the body's checksum is wrong")

func decodeBody(b []byte) (publisher, id uint32, err error) {
	if len(b) < bodySize || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return 0, 0, errBody
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), nil
}
