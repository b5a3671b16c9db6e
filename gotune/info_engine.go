package gotune

// DoctorInfo is what [Doctor] found out about this machine.
type DoctorInfo struct {
	_ struct{}

	Version    string    // of the engine
	Go         string    // version it was built with
	OS         string    // e.g. "linux/amd64"
	Backend    string    // what "auto" takes, e.g. "xla:cpu"
	Plugin     string    // path and version of its PJRT plugin, "" for none
	Devices    []Device  // of the backend
	Precision  string    // what ComputeDType "auto" takes, e.g. "bfloat16"
	Advice     string    // on precision, e.g. that the GPU has bfloat16
	CPUs       int       // that the engine may use
	HostMemory int64     // bytes of main memory
	HostFree   int64     // bytes of it that are free
	CacheDir   string    // where plugins and embedded files are unpacked
	CacheFree  int64     // bytes free on that disk
	HubCache   string    // where downloads are kept
	HubToken   bool      // a token was found
	Checks     []Finding // one a line
}

// Device is one processor that models can live on.
type Device struct {
	_ struct{}

	Name           string // e.g. "Tesla T4", "cpu:0"
	Capability     string // CUDA compute capability, e.g. "7.5"; "" if not CUDA
	Driver         string // of a GPU
	Memory         int64  // bytes
	Free           int64  // bytes
	BF16           bool   // has bfloat16 products
	FlashAttention bool   // has cuDNN's
}

// Finding is one thing that the doctor looked at.
type Finding struct {
	_ struct{}

	What  string // e.g. "CUDA plugin"
	Found string // e.g. "jax-cuda12-pjrt 0.11.2"
	OK    bool
	Next  string // what to do if it is not OK
}

// StatusInfo is what the engine holds and does at the moment.
type StatusInfo struct {
	_ struct{}

	Version     string  // of the engine
	PID         int     // of its process
	Socket      string  // where it listens
	LogFile     string  // where it writes its log
	Seconds     float64 // since it started
	Backend     string  // in use, "" if none was needed yet
	DeviceBytes int64   // held on the device
	DevicePeak  int64   // most that was held
	HostBytes   int64   // of main memory in use by the engine
	IdleExit    float64 // seconds after which an idle engine ends, 0: never
	Datasets    []DatasetInfo
	Models      []ModelInfo
	Runs        []RunInfo // without Records
	Jobs        []JobInfo // under way
}

// JobInfo is a request that the engine works on.
type JobInfo struct {
	_ struct{}

	Verb    string  // e.g. "run.train"
	Object  string  // e.g. "run1"
	Task    string  // of its latest progress
	Done    int64   // of Total
	Total   int64   // 0: not known
	Seconds float64 // since it began
}
