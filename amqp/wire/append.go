package wire

import "encoding/binary"

// beginFrame appends a frame's header and returns where its payload starts.
func beginFrame(dst []byte, kind byte, channel uint16) ([]byte, int) {
	dst = append(dst, kind, byte(channel>>8), byte(channel), 0, 0, 0, 0)
	return dst, len(dst)
}

// endFrame fills in the size of the frame whose payload starts at start.
func endFrame(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	return append(dst, frameEnd)
}

// AppendMethodFrame appends a method as a frame.
func AppendMethodFrame(dst []byte, channel uint16, m Method) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	return endFrame(AppendMethod(dst, m), start)
}

// AppendHeartbeat appends a heartbeat.
func AppendHeartbeat(dst []byte) []byte {
	return append(dst, FrameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd)
}

func appendID(dst []byte, id MethodID) []byte { return binary.BigEndian.AppendUint32(dst, uint32(id)) }

// AppendAck appends basic.ack.
func AppendAck(dst []byte, channel uint16, tag uint64, multiple bool) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = binary.BigEndian.AppendUint64(appendID(dst, BasicAckID), tag)
	return endFrame(append(dst, boolOctet(multiple)), start)
}

// AppendNack appends basic.nack.
func AppendNack(dst []byte, channel uint16, tag uint64, multiple, requeue bool) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = binary.BigEndian.AppendUint64(appendID(dst, BasicNackID), tag)
	return endFrame(append(dst, boolOctet(multiple)|boolOctet(requeue)<<1), start)
}

// AppendDeliver appends basic.deliver with its content, in frames of at most frameMax bytes.
func AppendDeliver(dst []byte, channel uint16, consumerTag string, tag uint64, redelivered bool, exchange, routingKey, properties, body []byte, frameMax uint32) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = appendShort(appendID(dst, BasicDeliverID), consumerTag)
	dst = append(binary.BigEndian.AppendUint64(dst, tag), boolOctet(redelivered))
	dst = endFrame(appendShort(appendShort(dst, exchange), routingKey), start)
	return AppendContent(dst, channel, properties, body, frameMax)
}

// AppendGetOk appends basic.get-ok with its content.
func AppendGetOk(dst []byte, channel uint16, tag uint64, redelivered bool, exchange, routingKey []byte, messages uint32, properties, body []byte, frameMax uint32) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = binary.BigEndian.AppendUint64(appendID(dst, BasicGetOkID), tag)
	dst = appendShort(appendShort(append(dst, boolOctet(redelivered)), exchange), routingKey)
	dst = endFrame(binary.BigEndian.AppendUint32(dst, messages), start)
	return AppendContent(dst, channel, properties, body, frameMax)
}

// AppendReturn appends basic.return with its content.
func AppendReturn(dst []byte, channel uint16, code uint16, text string, exchange, routingKey, properties, body []byte, frameMax uint32) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = binary.BigEndian.AppendUint16(appendID(dst, BasicReturnID), code)
	dst = endFrame(appendShort(appendShort(appendShort(dst, text), exchange), routingKey), start)
	return AppendContent(dst, channel, properties, body, frameMax)
}

// AppendPublish appends basic.publish with its content.
func AppendPublish(dst []byte, channel uint16, exchange, routingKey string, mandatory, immediate bool, properties, body []byte, frameMax uint32) []byte {
	dst, start := beginFrame(dst, FrameMethod, channel)
	dst = append(appendID(dst, BasicPublishID), 0, 0)
	dst = appendShort(appendShort(dst, exchange), routingKey)
	dst = endFrame(append(dst, boolOctet(mandatory)|boolOctet(immediate)<<1), start)
	return AppendContent(dst, channel, properties, body, frameMax)
}

// classBasic is the class of all content.
const classBasic = 60

// AppendContent appends a content header and the body in frames of at most frameMax bytes. properties are flags and list
// as in a header frame; none at all stands for no properties.
func AppendContent(dst []byte, channel uint16, properties, body []byte, frameMax uint32) []byte {
	dst, start := beginFrame(dst, FrameHeader, channel)
	dst = append(dst, 0, classBasic, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(body)))
	if len(properties) == 0 {
		dst = append(dst, 0, 0)
	}
	dst = endFrame(append(dst, properties...), start)
	most := max(int(frameMax)-FrameOverhead, 1)
	for len(body) > 0 {
		piece := body[:min(len(body), most)]
		body = body[len(piece):]
		dst, start = beginFrame(dst, FrameBody, channel)
		dst = endFrame(append(dst, piece...), start)
	}
	return dst
}

// ContentHeader is a content header frame; Properties point into its payload.
type ContentHeader struct {
	Class      uint16
	BodySize   uint64
	Properties []byte // flags and list
}

// ParseContentHeader reads a content header's payload and checks its properties.
func ParseContentHeader(payload []byte) (ContentHeader, error) {
	r := reader{data: payload}
	h := ContentHeader{Class: r.short()}
	r.short() // weight, always 0
	h.BodySize = r.longlong()
	h.Properties = r.data
	if r.err == nil && h.Class == classBasic {
		if err := CheckProperties(h.Properties); err != nil {
			return ContentHeader{}, err
		}
	}
	if r.err != nil {
		return ContentHeader{}, frameError("cannot decode %s", numbers(payload))
	}
	return h, nil
}
