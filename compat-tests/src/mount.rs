//! Small file systems of our own: for full disks, for those without direct I/O, and for disks that fail.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A file system that is unmounted and removed with this value.
pub struct Mount {
    point: PathBuf,
    /// What it is on.
    device: Option<PathBuf>,
    dir: TempDir,
}

/// Ends an ext4 at once, without writing what its journal still has: `EXT4_IOC_SHUTDOWN` of linux/ext4.h.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; \
     fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

impl Mount {
    /// An ext4 file system of this many MiB in a file on the disk under test.
    pub fn ext4(mib: u64) -> Mount {
        let (dir, image) = image(mib);
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m0".as_ref(), image.as_os_str()]);
        Mount::new(dir, &["-o".as_ref(), "loop".as_ref(), image.as_os_str()])
    }

    /// The same on a device that reads its image as a disk does: what the image has lost cannot be read. Its files
    /// begin behind all that ext4 keeps for itself.
    pub fn ext4_on_device(mib: u64) -> Mount {
        let (dir, image) = image(mib);
        let options = ["-q", "-F", "-m0", "-b4096", "-O^has_journal"].map(|one| one.as_ref());
        run("mkfs.ext4", &[&options[..], &[image.as_os_str()]].concat());
        let options = ["--find", "--show", "--direct-io=on"].map(|one| one.as_ref());
        let said = run_as_root("losetup", &[&options[..], &[image.as_os_str()]].concat());
        let device = PathBuf::from(said.trim());
        let mut mount = Mount::new(dir, &[device.as_os_str()]);
        mount.device = Some(device);
        mount
    }

    /// What [`Mount::ext4`] and [`Mount::ext4_on_device`] are stored in.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// The disk of an ext4 is gone: whatever is asked of it fails.
    pub fn shut_down(&self) {
        let arguments = ["-c", SHUT_DOWN].map(|one| one.as_ref());
        run_as_root("/usr/bin/python3", &[&arguments[..], &[self.point.as_os_str()]].concat());
    }

    /// The disk is there again, with what it had.
    pub fn mount_again(&self) {
        run_as_root("umount", &[self.point.as_os_str()]);
        let image = self.image();
        let arguments = ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), self.point.as_os_str()];
        run_as_root("mount", &arguments);
    }

    /// A ramfs: files in memory, and opening one with O_DIRECT is refused.
    pub fn ramfs() -> Mount {
        Mount::new(
            crate::server::scratch_dir(),
            &["-t".as_ref(), "ramfs".as_ref(), "ramfs".as_ref()],
        )
    }

    /// Another way to a directory, by which nothing can be written.
    pub fn read_only(of: &Path) -> Mount {
        Mount::new(
            crate::server::scratch_dir(),
            &["--bind".as_ref(), "-o".as_ref(), "ro".as_ref(), of.as_os_str()],
        )
    }

    fn new(dir: TempDir, what: &[&std::ffi::OsStr]) -> Mount {
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).expect("the mount point can be created");
        let mut arguments = what.to_vec();
        arguments.push(point.as_os_str());
        run_as_root("mount", &arguments);
        let writable = !arguments.contains(&"ro".as_ref());
        let mount = Mount { point, device: None, dir };
        if writable {
            run_as_root("chmod", &["0777".as_ref(), mount.point.as_os_str()]);
        }
        mount
    }

    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run_as_root("umount", &["--lazy".as_ref(), self.point.as_os_str()]);
        if let Some(device) = &self.device {
            run_as_root("losetup", &["--detach".as_ref(), device.as_os_str()]);
        }
    }
}

fn image(mib: u64) -> (TempDir, PathBuf) {
    let dir = crate::server::scratch_dir();
    let image = dir.path().join("image");
    let file = std::fs::File::create(&image).expect("the image file can be created");
    file.set_len(mib << 20).expect("the image file can be sized");
    (dir, image)
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{program} failed: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{program} does not run ({error}): run ./test.sh, which installs it"),
    }
}

/// Runs a program as root, through sudo where this process is not. Returns what it printed.
fn run_as_root(program: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg("-n").arg(program);
        command
    };
    let output = command.args(arguments).output();
    let reason = match output {
        Ok(output) if output.status.success() => {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    // A panic while a failed test unwinds would hide why it failed.
    if std::thread::panicking() {
        eprintln!("{program} failed: {reason}");
        return String::new();
    }
    panic!(
        "{program} failed: {reason}\nthis test mounts a small file system of its own: run it as root, or as a \
         user with passwordless sudo, on a machine (or in a container) that may mount"
    );
}
