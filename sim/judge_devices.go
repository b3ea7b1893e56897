package sim

// A device of a host is in one guest at a time, and that guest's VM has it: by the
// processes that live on the machine, not by what daemons believe.
type judgeDevices struct{}

const oneDevice = "a device is one VM's"

// forked looks at a guest that begins.
func (j *judgeDevices) forked(w *World, g *guest) {
	for _, d := range g.devices {
		w.judges.judged["devices"]++
		for _, other := range g.m.guests {
			for _, o := range other.devices {
				if other != g && o.Address == d.Address {
					w.fail(oneDevice, "%s: %s starts with the device %s, which %s has", g.m.Name, g.instance, d.Address, other.instance)
				}
			}
		}
	}
}
