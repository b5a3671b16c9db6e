#include "textflag.h"

// STEP moves 8 weights one level down the tree: bound = table[node], node =
// 2·node + (bound < s).
#define STEP(table, s, node) \
	VPERMPS table, node, Y8     \
	VCMPPS  $0x11, s, Y8, Y8    \
	VPADDD  node, node, node    \
	VPSUBD  Y8, node, node

// func packAVX2(dst *byte, absmax, x *float32, blocks, size int, t *tree) (done int)
//
// Y15-Y12 hold the tree's levels, Y10 the codes, Y9 the nibbles' weights, Y11 the
// inverse scale. Y0-Y3 are 32 weights, Y4-Y7 their nodes.
TEXT ·packAVX2(SB), NOSPLIT, $0-56
	MOVQ    dst+0(FP), DI
	MOVQ    absmax+8(FP), SI
	MOVQ    x+16(FP), DX
	MOVQ    blocks+24(FP), CX
	MOVQ    size+32(FP), R8
	MOVQ    t+40(FP), R9
	VMOVUPS (R9), Y15
	VMOVUPS 32(R9), Y14
	VMOVUPS 64(R9), Y13
	VMOVUPS 96(R9), Y12
	VMOVDQU 128(R9), Y10
	VMOVDQU 160(R9), Y9
	XORQ    AX, AX

block:
	CMPQ         AX, CX
	JGE          end
	VBROADCASTSS 192(R9), Y8
	VPXOR        Y0, Y0, Y0
	VPXOR        Y1, Y1, Y1
	VPXOR        Y2, Y2, Y2
	VPXOR        Y3, Y3, Y3
	MOVQ         DX, R10
	MOVQ         R8, R11

largest:
	VPAND   (R10), Y8, Y4
	VPAND   32(R10), Y8, Y5
	VPAND   64(R10), Y8, Y6
	VPAND   96(R10), Y8, Y7
	VPMAXUD Y4, Y0, Y0
	VPMAXUD Y5, Y1, Y1
	VPMAXUD Y6, Y2, Y2
	VPMAXUD Y7, Y3, Y3
	ADDQ    $128, R10
	SUBQ    $32, R11
	JNZ     largest

	VPMAXUD      Y1, Y0, Y0
	VPMAXUD      Y3, Y2, Y2
	VPMAXUD      Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPMAXUD      X1, X0, X0
	VPSHUFD      $0x4e, X0, X1
	VPMAXUD      X1, X0, X0
	VPSHUFD      $0xb1, X0, X1
	VPMAXUD      X1, X0, X0
	VMOVD        X0, R10
	CMPL         R10, $0x7f800000
	JAE          end
	VMOVSS       X0, (SI)
	VMAXSS       196(R9), X0, X0
	VMOVSS       200(R9), X1
	VDIVSS       X0, X1, X0
	VBROADCASTSS X0, Y11
	MOVQ         R8, R11

codes:
	VMULPS (DX), Y11, Y0
	VMULPS 32(DX), Y11, Y1
	VMULPS 64(DX), Y11, Y2
	VMULPS 96(DX), Y11, Y3
	VCMPPS $0x11, Y0, Y15, Y4
	VCMPPS $0x11, Y1, Y15, Y5
	VCMPPS $0x11, Y2, Y15, Y6
	VCMPPS $0x11, Y3, Y15, Y7
	VPSRLD $31, Y4, Y4
	VPSRLD $31, Y5, Y5
	VPSRLD $31, Y6, Y6
	VPSRLD $31, Y7, Y7
	STEP(Y14, Y0, Y4)
	STEP(Y14, Y1, Y5)
	STEP(Y14, Y2, Y6)
	STEP(Y14, Y3, Y7)
	STEP(Y13, Y0, Y4)
	STEP(Y13, Y1, Y5)
	STEP(Y13, Y2, Y6)
	STEP(Y13, Y3, Y7)
	STEP(Y12, Y0, Y4)
	STEP(Y12, Y1, Y5)
	STEP(Y12, Y2, Y6)
	STEP(Y12, Y3, Y7)

	// 32 numbers of levels to bytes, each half of a register for itself; bytes
	// to codes; pairs of codes to bytes; both halves together.
	VPACKUSDW    Y5, Y4, Y4
	VPACKUSDW    Y7, Y6, Y6
	VPACKUSWB    Y6, Y4, Y4
	VPSHUFB      Y4, Y10, Y4
	VPMADDUBSW   Y9, Y4, Y4
	VPACKUSWB    Y4, Y4, Y4
	VEXTRACTI128 $1, Y4, X5
	VPUNPCKLWD   X5, X4, X4
	VMOVDQU      X4, (DI)
	ADDQ         $128, DX
	ADDQ         $16, DI
	SUBQ         $32, R11
	JNZ          codes

	ADDQ $4, SI
	INCQ AX
	JMP  block

end:
	MOVQ AX, done+48(FP)
	VZEROUPPER
	RET

// func widenBF16(dst *float32, src *byte, n int)
TEXT ·widenBF16(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

bf16:
	VPMOVZXWD (SI), Y0
	VPMOVZXWD 16(SI), Y1
	VPSLLD    $16, Y0, Y0
	VPSLLD    $16, Y1, Y1
	VMOVDQU   Y0, (DI)
	VMOVDQU   Y1, 32(DI)
	ADDQ      $32, SI
	ADDQ      $64, DI
	SUBQ      $16, CX
	JNZ       bf16
	VZEROUPPER
	RET

// func widenF16(dst *float32, src *byte, n int)
TEXT ·widenF16(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

f16:
	VCVTPH2PS (SI), Y0
	VCVTPH2PS 16(SI), Y1
	VMOVUPS   Y0, (DI)
	VMOVUPS   Y1, 32(DI)
	ADDQ      $32, SI
	ADDQ      $64, DI
	SUBQ      $16, CX
	JNZ       f16
	VZEROUPPER
	RET
