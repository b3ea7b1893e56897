package fakevmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a snapshot is, of either vendor: the machine, in a file of the vendor's own
// kind, and the memory, as large as the guest's, with what the guest knows at its
// begin: how far it has counted.

const version = 7 // of the state's file

type savedState struct {
	Version int
	Machine machine
}

type savedMemory struct{ Ticks int }

// vmConfig is the part of cloud-hypervisor's config.json that its restore takes the
// machine from. Others are there, too, and are kept by who changes these.
type vmConfig struct {
	Payload struct {
		Kernel    string  `json:"kernel"`
		Initramfs *string `json:"initramfs"`
		Cmdline   string  `json:"cmdline"`
		Firmware  *string `json:"firmware"`
	} `json:"payload"`
	Memory struct {
		Size int64 `json:"size"`
	} `json:"memory"`
	Disks []drive `json:"disks"` // null: none
	Net   []struct {
		Tap string `json:"tap"`
		ID  string `json:"id"`
	} `json:"net"`
	Serial struct {
		Mode string `json:"mode"`
	} `json:"serial"`
	Pvpanic bool     `json:"pvpanic"`
	Balloon *balloon `json:"balloon"`
}

type balloon struct {
	Size int64 `json:"size"`
}

// save writes a snapshot, or says why not. It is called with the lock held.
func (f *fake) save(body []byte) string {
	if !f.made {
		return "The VM is not created"
	}
	if f.state != "Paused" {
		return "Cannot save what is not paused: the VM is " + f.state
	}
	state, memory, config := f.places(body)
	f.told("vm", "snapshotting")
	err := create(state, savedState{version, f.machine})
	if err == nil && config != "" {
		err = create(config, f.machine.config())
	}
	if err == nil {
		err = f.saveMemory(memory)
	}
	if err != nil {
		return "Cannot save: " + err.Error()
	}
	f.told("vm", "snapshotted")
	return ""
}

func (f *fake) saveMemory(path string) error {
	if err := create(path, savedMemory{f.ticks}); err != nil {
		return err
	}
	size := int64(f.machine.MemoryMib) << 20
	how, _ := f.machine.word("save")
	if how != 0 {
		size /= 2
	}
	if err := os.Truncate(path, size); err != nil {
		return err
	}
	switch how {
	case 1:
		return unix.ENOSPC
	case 2:
		os.Exit(1)
	case 3:
		f.mu.Unlock()
		for {
			time.Sleep(time.Hour)
		}
	}
	return nil
}

// load takes a machine and its guest from a snapshot, or says why not.
func (f *fake) load(body []byte) string {
	switch {
	case f.made && f.vendor == Firecracker && f.state == "Not started":
		return "Loading a microVM snapshot not allowed after configuring boot-specific resources."
	case f.made && f.vendor == Firecracker:
		return "The requested operation is not supported after starting the microVM."
	case f.made:
		return "VM is already created"
	}
	statePath, memoryPath, configPath := f.places(body)
	var state savedState
	var memory savedMemory
	err := read(statePath, 0, &state)
	m := state.Machine
	if err == nil && state.Version != version {
		err = fmt.Errorf("the snapshot is of version %d, and this is %d", state.Version, version)
	}
	if err == nil && configPath != "" {
		m, err = remade(configPath)
		f.made = err == nil // whatever comes of it
	}
	if err == nil {
		err = read(memoryPath, int64(m.MemoryMib)<<20, &memory)
	}
	if err == nil {
		err = f.overridden(body, m.Taps)
	}
	if err == nil {
		err = f.make(m)
	}
	if err != nil {
		return "Failed to restore from snapshot: " + err.Error()
	}
	if _, dies := m.word("load"); dies {
		os.Exit(1)
	}
	if memory.Ticks == 0 {
		f.violate("a snapshot of a guest that had not come up")
	}
	f.state, f.ticks = "Paused", memory.Ticks
	f.started <- memory.Ticks
	f.told("vm", "restored")
	return ""
}

// places are where a request says that the files are; config is cloud-hypervisor's.
func (f *fake) places(body []byte) (state, memory, config string) {
	var p struct {
		State string `json:"snapshot_path"`
		File  string `json:"mem_file_path"`
		Back  struct {
			Path string `json:"backend_path"`
		} `json:"mem_backend"`
		To   string `json:"destination_url"`
		From string `json:"source_url"`
	}
	_ = json.Unmarshal(body, &p) // it was checked
	if f.vendor == Firecracker {
		return p.State, p.File + p.Back.Path, ""
	}
	dir, ok := strings.CutPrefix(p.To+p.From, "file://")
	if !ok {
		f.violate("%s is not file://", p.To+p.From)
	}
	return filepath.Join(dir, "state.json"), filepath.Join(dir, "memory-ranges"), filepath.Join(dir, "config.json")
}

// overridden puts other taps in the place of those of a snapshot: by id, and only
// those that are there.
func (f *fake) overridden(body []byte, taps map[string]string) error {
	var p struct {
		Nics []struct {
			ID  string `json:"iface_id"`
			Tap string `json:"host_dev_name"`
		} `json:"network_overrides"`
	}
	_ = json.Unmarshal(body, &p) // it was checked
	for _, n := range p.Nics {
		if _, there := taps[n.ID]; !there {
			return fmt.Errorf("the snapshot has no network interface %s", n.ID)
		}
		taps[n.ID] = n.Tap
	}
	return nil
}

func (m machine) config() vmConfig {
	var c vmConfig
	c.Payload.Kernel, c.Payload.Cmdline, c.Memory.Size = m.Kernel, m.Cmdline, int64(m.MemoryMib)<<20
	if m.Initramfs != "" {
		c.Payload.Initramfs = &m.Initramfs
	}
	c.Serial.Mode, c.Pvpanic, c.Disks = "Tty", true, m.Drives
	if m.Balloon {
		c.Balloon = &balloon{int64(m.TakenMib) << 20}
	}
	for i := range len(m.Taps) {
		id := fmt.Sprintf("_net%d", i)
		c.Net = append(c.Net, struct {
			Tap string `json:"tap"`
			ID  string `json:"id"`
		}{m.Taps[id], id})
	}
	return c
}

// remade reads that again: whoever has changed it has left the rest as it was.
func remade(path string) (machine, error) {
	var c vmConfig
	if err := read(path, 0, &c); err != nil {
		return machine{}, err
	}
	if c.Serial.Mode != "Tty" || !c.Pvpanic || c.Memory.Size < 1<<20 || c.Payload.Firmware != nil {
		return machine{}, fmt.Errorf("config.json is not what it was: %+v", c)
	}
	m := machine{Cmdline: c.Payload.Cmdline, Kernel: c.Payload.Kernel, MemoryMib: int(c.Memory.Size >> 20), Drives: c.Disks, Taps: map[string]string{}}
	m.Files = append(m.Files, m.Kernel)
	for _, n := range c.Net {
		m.Taps[n.ID] = n.Tap
	}
	if m.Balloon = c.Balloon != nil; m.Balloon {
		m.TakenMib = int(c.Balloon.Size >> 20)
	}
	return m, nil
}

// create writes a file that is not there yet.
func create(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Close())
}

// read reads the begin of a file that must be so large, 0 for any.
func read(path string, size int64, v any) error {
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return err
	}
	if size != 0 && st.Size() != size {
		return fmt.Errorf("%s has %d bytes, and the guest's memory %d", filepath.Base(path), st.Size(), size)
	}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}
