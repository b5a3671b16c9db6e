package token

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// field is one field of a protobuf message (the wire format of
// protobuf.dev/programming-guides/encoding). Of bits and bytes one is set, by the
// wire type.
type field struct {
	number int
	wire   int // 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes
	bits   uint64
	bytes  []byte
}

// eachField calls f on the fields of msg in order.
func eachField(msg []byte, f func(field) error) error {
	for pos := 0; pos < len(msg); {
		tag, n := binary.Uvarint(msg[pos:])
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return fmt.Errorf("no protobuf field at byte %d", pos)
		}
		pos += n
		fd := field{number: int(tag >> 3), wire: int(tag & 7)}
		rest := msg[pos:]
		switch fd.wire {
		case 0:
			v, n := binary.Uvarint(rest)
			if n <= 0 {
				return fmt.Errorf("number cut short at byte %d", pos)
			}
			fd.bits, pos = v, pos+n
		case 1:
			if len(rest) < 8 {
				return fmt.Errorf("number cut short at byte %d", pos)
			}
			fd.bits, pos = binary.LittleEndian.Uint64(rest), pos+8
		case 2:
			size, n := binary.Uvarint(rest)
			if n <= 0 || size > uint64(len(rest)-n) {
				return fmt.Errorf("field %d at byte %d is cut short: it says %d bytes, %d are left", fd.number, pos, size, len(rest))
			}
			fd.bytes, pos = rest[n:n+int(size)], pos+n+int(size)
		case 5:
			if len(rest) < 4 {
				return fmt.Errorf("number cut short at byte %d", pos)
			}
			fd.bits, pos = uint64(binary.LittleEndian.Uint32(rest)), pos+4
		default:
			return fmt.Errorf("wire type %d at byte %d is not known", fd.wire, pos)
		}
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}

// Types of sentencepiece pieces and models (sentencepiece_model.proto).
const (
	pieceNormal      = 1
	pieceUnknown     = 2
	pieceControl     = 3
	pieceUserDefined = 4
	pieceUnused      = 5
	pieceByte        = 6

	modelUnigram = 1
	modelBPE     = 2
)

// spPiece is one entry of a sentencepiece vocabulary; its id is its index.
type spPiece struct {
	text  string
	score float32
	kind  int
}

// spModel is what gotune needs of sentencepiece's ModelProto, with the proto's
// defaults.
type spModel struct {
	pieces                []spPiece
	modelType             int
	whitespaceSuffix      bool
	unkSurface            string
	bos, eos, pad         string
	charsmap              []byte
	dummyPrefix           bool
	removeExtraWhitespace bool
	escapeWhitespace      bool
}

// parseModel reads a ModelProto: pieces in field 1, the trainer's and the
// normalizer's settings in fields 2 and 3.
func parseModel(data []byte) (*spModel, error) {
	m := &spModel{
		modelType: modelUnigram, unkSurface: " \u2047 ", bos: "<s>", eos: "</s>", pad: "<pad>",
		dummyPrefix: true, removeExtraWhitespace: true, escapeWhitespace: true,
	}
	err := eachField(data, func(f field) error {
		if f.number > 3 {
			return nil
		}
		if f.wire != 2 {
			return fmt.Errorf("field %d has wire type %d, want 2", f.number, f.wire)
		}
		switch f.number {
		case 1:
			if len(m.pieces) >= maxVocab {
				return fmt.Errorf("more than %d pieces", maxVocab)
			}
			p, err := parsePiece(f.bytes)
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(m.pieces), err)
			}
			m.pieces = append(m.pieces, p)
			return nil
		case 2:
			return eachField(f.bytes, m.trainerField)
		}
		return eachField(f.bytes, m.normalizerField)
	})
	if err != nil {
		return nil, fmt.Errorf("not a sentencepiece model: %w: the file may be cut short or of another kind; download it again", err)
	}
	if len(m.pieces) == 0 {
		return nil, errors.New("not a sentencepiece model: it has no pieces")
	}
	return m, nil
}

func parsePiece(msg []byte) (spPiece, error) {
	p := spPiece{kind: pieceNormal}
	err := eachField(msg, func(f field) error {
		switch {
		case f.number == 1 && f.wire == 2:
			p.text = string(f.bytes)
		case f.number == 2 && f.wire == 5:
			p.score = math.Float32frombits(uint32(f.bits))
		case f.number == 3 && f.wire == 0:
			p.kind = int(f.bits & 0xFF)
		}
		return nil
	})
	if err == nil && p.text == "" {
		err = errors.New("it has no text")
	}
	if err == nil && p.score != p.score {
		err = fmt.Errorf("the score of %q is not a number", clip(p.text))
	}
	return p, err
}

func (m *spModel) trainerField(f field) error {
	switch {
	case f.number == 3 && f.wire == 0:
		m.modelType = int(f.bits & 0xFF)
	case f.number == 24 && f.wire == 0:
		m.whitespaceSuffix = f.bits != 0
	case f.number == 44 && f.wire == 2:
		m.unkSurface = string(f.bytes)
	case f.number == 46 && f.wire == 2:
		m.bos = string(f.bytes)
	case f.number == 47 && f.wire == 2:
		m.eos = string(f.bytes)
	case f.number == 48 && f.wire == 2:
		m.pad = string(f.bytes)
	}
	return nil
}

func (m *spModel) normalizerField(f field) error {
	switch {
	case f.number == 2 && f.wire == 2:
		m.charsmap = f.bytes
	case f.number == 3 && f.wire == 0:
		m.dummyPrefix = f.bits != 0
	case f.number == 4 && f.wire == 0:
		m.removeExtraWhitespace = f.bits != 0
	case f.number == 5 && f.wire == 0:
		m.escapeWhitespace = f.bits != 0
	}
	return nil
}
