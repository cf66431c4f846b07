package main

import (
	"context"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// stub is the program that the firmware starts. It hands the kernel what lies beside it in the same file.
const stub = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// bootFile is where firmware looks on a disk that it does not know.
const bootFile = "EFI/BOOT/BOOTX64.EFI"

// espUUID is the file system's serial number.
const espUUID = "6b697000"

// makeUnifiedKernel makes one program of the stub, the kernel, its command line and its initramfs: all that there is for
// the firmware to start, and no boot loader that would ask.
func makeUnifiedKernel(ctx context.Context, root, files string) error {
	stub := filepath.Join(root, stub)
	end, alignment, err := endOfSections(stub)
	if err != nil {
		return fmt.Errorf("reading %s: %w", stub, err)
	}
	var args []string
	for _, section := range []struct{ name, file string }{{".cmdline", "cmdline"}, {".linux", "kernel"}, {".initrd", "initrd"}} {
		file := filepath.Join(files, section.file)
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		args = append(args, "--add-section", section.name+"="+file,
			"--change-section-vma", section.name+"=0x"+strconv.FormatUint(end, 16))
		end = alignUp(end+uint64(info.Size()), alignment)
	}
	program := filepath.Join(files, unifiedKernel)
	if err := run(ctx, "objcopy", append(args, stub, program)...); err != nil {
		return err
	}
	return setTimestamp(program)
}

// setTimestamp replaces the time at which objcopy made a program, and the checksum, which contains it. Firmware looks at
// neither.
func setTimestamp(program string) error {
	seconds, err := strconv.ParseUint(epoch, 10, 32)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(program, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	word := make([]byte, 4)
	if _, err := f.ReadAt(word, 60); err != nil { // where the header is
		return err
	}
	const timeAt, checksumAt = 8, 88 // in the header
	header := int64(binary.LittleEndian.Uint32(word))
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(seconds)), header+timeAt); err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4), header+checksumAt)
	return err
}

// unifiedKernel is the file's name while the image is made.
const unifiedKernel = "unified"

// endOfSections is the first address behind a program's sections that another one may have.
func endOfSections(path string) (end, alignment uint64, err error) {
	program, err := pe.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer program.Close()
	header, ok := program.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return 0, 0, errors.New("it is no program of 64 bits")
	}
	alignment = uint64(header.SectionAlignment)
	for _, s := range program.Sections {
		end = max(end, header.ImageBase+uint64(s.VirtualAddress)+uint64(s.VirtualSize))
	}
	return alignUp(end, alignment), alignment, nil
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

// makeESP makes the file system that the firmware reads, with one file.
func makeESP(ctx context.Context, files string) (path string, err error) {
	program := filepath.Join(files, unifiedKernel)
	info, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	const tables = 2 * mebibyte // of the file system, and room for a directory
	size := int64(alignUp(uint64(info.Size()), mebibyte)) + tables
	path = filepath.Join(files, "esp")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return "", err
	}
	if err := os.Truncate(path, size); err != nil {
		return "", err
	}
	if err := run(ctx, "touch", "--date=@"+epoch, program); err != nil {
		return "", err
	}
	for _, command := range [][]string{
		{"mkfs.vfat", "--invariant", "-n", "KIP-BOOT", "-i", espUUID, path},
		{"mmd", "-i", path, "::EFI", "::EFI/BOOT"},
		{"mcopy", "-m", "-i", path, program, "::" + bootFile},
	} {
		if err := run(ctx, "env", append([]string{"TZ=UTC", "SOURCE_DATE_EPOCH=" + epoch}, command...)...); err != nil {
			return "", err
		}
	}
	return path, nil
}
