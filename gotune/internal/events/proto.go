package events

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// message builds a protocol buffer: fields are appended in the order given.
// Encoding: protobuf.dev/programming-guides/encoding.
type message []byte

// Wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

func (m *message) key(field, wire int) { *m = binary.AppendUvarint(*m, uint64(field<<3|wire)) }

func (m *message) varint(field int, v uint64) {
	m.key(field, wireVarint)
	*m = binary.AppendUvarint(*m, v)
}

func (m *message) double(field int, v float64) {
	m.key(field, wireFixed64)
	*m = binary.LittleEndian.AppendUint64(*m, math.Float64bits(v))
}

func (m *message) float(field int, v float32) {
	m.key(field, wireFixed32)
	*m = binary.LittleEndian.AppendUint32(*m, math.Float32bits(v))
}

func (m *message) bytes(field int, b []byte) {
	m.key(field, wireBytes)
	*m = binary.AppendUvarint(*m, uint64(len(b)))
	*m = append(*m, b...)
}

func (m *message) text(field int, s string) { m.bytes(field, []byte(s)) }

// Field numbers of tensorflow.Event and the messages in it.
const (
	eventWallTime    = 1
	eventStep        = 2
	eventFileVersion = 3
	eventSummary     = 5
	eventSessionLog  = 7
	eventSource      = 10
	sourceWriter     = 1
	sessionStatus    = 1
	sessionStart     = 1 // value of status
	summaryValue     = 1
	valueTag         = 1
	valueSimple      = 2
	valueTensor      = 8
	valueMetadata    = 9
	metadataPlugin   = 1
	pluginName       = 1
	tensorDType      = 1
	tensorShape      = 2
	tensorString     = 8
	dtypeString      = 7 // value of DataType
	shapeDim         = 2
	dimSize          = 1
)

// event begins a tensorflow.Event.
func event(wallTime float64, step int64) message {
	var e message
	e.double(eventWallTime, wallTime)
	if step != 0 {
		e.varint(eventStep, uint64(step))
	}
	return e
}

// fileVersion is the event that a file begins with.
func fileVersion(wallTime float64) message {
	e := event(wallTime, 0)
	e.text(eventFileVersion, "brain.Event:2")
	var source message
	source.text(sourceWriter, "gotune")
	e.bytes(eventSource, source)
	return e
}

// sessionStarts tells readers to forget events of this and later steps.
func sessionStarts(wallTime float64, step int64) message {
	e := event(wallTime, step)
	var log message
	log.varint(sessionStatus, sessionStart)
	e.bytes(eventSessionLog, log)
	return e
}

// summary wraps one value.
func summary(wallTime float64, step int64, value message) message {
	var s message
	s.bytes(summaryValue, value)
	e := event(wallTime, step)
	e.bytes(eventSummary, s)
	return e
}

// scalar is a value of a curve.
func scalar(tag string, v float32) message {
	var m message
	m.text(valueTag, tag)
	m.float(valueSimple, v)
	return m
}

// textValue is a value of TensorBoard's text plugin: a string tensor [1].
func textValue(tag, text string) message {
	var dim, shape, tensor, plugin, metadata, m message
	dim.varint(dimSize, 1)
	shape.bytes(shapeDim, dim)
	tensor.varint(tensorDType, dtypeString)
	tensor.bytes(tensorShape, shape)
	tensor.text(tensorString, text)
	plugin.text(pluginName, "text")
	metadata.bytes(metadataPlugin, plugin)
	m.text(valueTag, tag)
	m.bytes(valueTensor, tensor)
	m.bytes(valueMetadata, metadata)
	return m
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is the checksum of a TFRecord.
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// record frames data as a TFRecord.
func record(data []byte) []byte {
	out := make([]byte, 0, len(data)+16)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	out = binary.LittleEndian.AppendUint32(out, maskedCRC(out[:8]))
	out = append(out, data...)
	return binary.LittleEndian.AppendUint32(out, maskedCRC(data))
}
