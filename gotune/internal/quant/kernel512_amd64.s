#include "textflag.h"

// CODE turns 16 scaled weights s into codes: cell = ⌊16·s + 16⌋, code = code of
// the cell, one more if s lies above the cell's midpoint.
#define CODE(s, a, b, k) \
	VMOVAPS     s, a              \
	VFMADD213PS Z27, Z27, a       \
	VCVTTPS2DQ  a, a              \
	VPMINSD     Z26, a, a         \
	VMOVDQA32   a, b              \
	VPERMI2PS   Z30, Z31, a       \
	VPERMI2D    Z28, Z29, b       \
	VCMPPS      $0x11, s, a, k    \
	VPADDD      Z25, b, k, b

// func packAVX512(dst *byte, absmax, x *float32, blocks, size int, t *cells32) (done int)
//
// Z31 and Z30 hold the cells' midpoints, Z29 and Z28 their codes, Z23 the inverse
// scale.
TEXT ·packAVX512(SB), NOSPLIT, $0-56
	MOVQ         dst+0(FP), DI
	MOVQ         absmax+8(FP), SI
	MOVQ         x+16(FP), DX
	MOVQ         blocks+24(FP), CX
	MOVQ         size+32(FP), R8
	MOVQ         t+40(FP), R9
	VMOVUPS      (R9), Z31
	VMOVUPS      64(R9), Z30
	VMOVDQU32    128(R9), Z29
	VMOVDQU32    192(R9), Z28
	VBROADCASTSS 256(R9), Z27
	VPBROADCASTD 260(R9), Z26
	VPBROADCASTD 264(R9), Z25
	VPBROADCASTD 268(R9), Z24
	XORQ         AX, AX

block:
	CMPQ   AX, CX
	JGE    end
	VPXORD Z0, Z0, Z0
	VPXORD Z1, Z1, Z1
	MOVQ   DX, R10
	MOVQ   R8, R11

largest:
	VPANDD  (R10), Z24, Z2
	VPANDD  64(R10), Z24, Z3
	VPMAXUD Z2, Z0, Z0
	VPMAXUD Z3, Z1, Z1
	ADDQ    $128, R10
	SUBQ    $32, R11
	JNZ     largest

	VPMAXUD       Z1, Z0, Z0
	VEXTRACTI64X4 $1, Z0, Y1
	VPMAXUD       Y1, Y0, Y0
	VEXTRACTI128  $1, Y0, X1
	VPMAXUD       X1, X0, X0
	VPSHUFD       $0x4e, X0, X1
	VPMAXUD       X1, X0, X0
	VPSHUFD       $0xb1, X0, X1
	VPMAXUD       X1, X0, X0
	VMOVD         X0, R10
	CMPL          R10, $0x7f800000
	JAE           end
	VMOVSS        X0, (SI)
	VMAXSS        272(R9), X0, X0
	VMOVSS        276(R9), X1
	VDIVSS        X0, X1, X0
	VBROADCASTSS  X0, Z23
	MOVQ          R8, R11

codes:
	VMULPS (DX), Z23, Z0
	VMULPS 64(DX), Z23, Z1
	CODE(Z0, Z2, Z4, K1)
	CODE(Z1, Z3, Z5, K2)

	// The earlier of each pair of codes to the high nibble of one byte.
	VPSLLQ  $4, Z4, Z2
	VPSLLQ  $4, Z5, Z3
	VPSRLQ  $32, Z4, Z4
	VPSRLQ  $32, Z5, Z5
	VPORQ   Z2, Z4, Z4
	VPORQ   Z3, Z5, Z5
	VPMOVQB Z4, (DI)
	VPMOVQB Z5, 8(DI)
	ADDQ    $128, DX
	ADDQ    $16, DI
	SUBQ    $32, R11
	JNZ     codes

	ADDQ $4, SI
	INCQ AX
	JMP  block

end:
	MOVQ AX, done+48(FP)
	VZEROUPPER
	RET
