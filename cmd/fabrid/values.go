package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A size is a flag with a number of bytes: 4096, 4k, 256MiB. Units are powers of
// 1024.
type size uint64

var units = []struct {
	letter string
	shift  uint
}{{"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}}

func (s *size) Set(text string) error {
	number, shift := strings.ToUpper(text), uint(0)
	for _, u := range units {
		if n, ok := strings.CutSuffix(strings.TrimSuffix(number, "IB"), u.letter); ok {
			number, shift = n, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	if err != nil || n > 1<<63>>shift {
		return fmt.Errorf("%q is no size: want bytes, or a number with k, M, G or T (powers of 1024), such as 4k or 256MiB", text)
	}
	*s = size(n << shift)
	return nil
}

func (s *size) String() string {
	n := uint64(*s)
	for i := len(units) - 1; i >= 0; i-- {
		if u := units[i]; n != 0 && n%(1<<u.shift) == 0 {
			return fmt.Sprintf("%d %siB", n>>u.shift, u.letter)
		}
	}
	return strconv.FormatUint(n, 10)
}

func (s *size) Type() string { return "size" }

// A span is a flag with a time: 1m30s, or 90 for seconds.
type span time.Duration

func (s *span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, nerr := strconv.ParseUint(text, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no time: want seconds, or a number with a unit, such as 1m30s", text)
	}
	*s = span(d)
	return nil
}

func (s *span) String() string { return time.Duration(*s).String() }
func (s *span) Type() string   { return "time" }

// A port is a flag with a port of UDP or NVMe/RDMA.
type port uint16

func (p *port) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return errors.New("want a port, 1 to 65535")
	}
	*p = port(n)
	return nil
}

func (p *port) String() string { return strconv.Itoa(int(*p)) }
func (p *port) Type() string   { return "port" }

// A number is a flag with a whole number from least to most.
type number struct {
	to          *int
	least, most int
}

func (n number) Set(text string) error {
	v, err := strconv.Atoi(text)
	if err == nil && n.least <= v && v <= n.most {
		*n.to = v
		return nil
	}
	return fmt.Errorf("want a number from %d to %d", n.least, n.most)
}

func (n number) String() string {
	if n.to == nil {
		return "0"
	}
	return strconv.Itoa(*n.to)
}

func (n number) Type() string { return "int" }
