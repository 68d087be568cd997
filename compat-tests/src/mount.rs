//! Small file systems of our own, for full disks and for those without direct I/O.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A file system that is unmounted and removed with this value.
pub struct Mount {
    point: PathBuf,
    _dir: TempDir,
}

impl Mount {
    /// An ext4 file system of this many MiB in a file on the disk under test.
    pub fn ext4(mib: u64) -> Mount {
        let dir = crate::server::scratch_dir();
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).expect("the image file can be created");
        file.set_len(mib << 20).expect("the image file can be sized");
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m0".as_ref(), image.as_os_str()]);
        Mount::new(dir, &["-o".as_ref(), "loop".as_ref(), image.as_os_str()])
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
        let mount = Mount { point, _dir: dir };
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
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{program} failed: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{program} does not run ({error}): run ./test.sh, which installs it"),
    }
}

/// Runs a program as root, through sudo where this process is not.
fn run_as_root(program: &str, arguments: &[&std::ffi::OsStr]) {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg("-n").arg(program);
        command
    };
    let output = command.args(arguments).output();
    let reason = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    // A panic while a failed test unwinds would hide why it failed.
    if std::thread::panicking() {
        return eprintln!("{program} failed: {reason}");
    }
    panic!(
        "{program} failed: {reason}\nthis test mounts a small file system of its own: run it as root, or as a \
         user with passwordless sudo, on a machine (or in a container) that may mount"
    );
}
