//! A file system in a file, on a loop device, that tests may cut off or let fail.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(missing_docs, reason = "tests")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::site::Site;
use crate::support::{Mounted, PATIENCE, has, is_root, within};

/// Nothing is written in it but what is used.
const SIZE_BYTES: u64 = 400 << 20;

pub struct Disk {
    image: PathBuf,
    pub at: PathBuf,
    /// What the image lies on, if that can be taken away.
    ground: Option<(PathBuf, Mounted)>,
    /// What was written at once through the loop device, and the file that says so.
    pieces: RefCell<Option<(PathBuf, String)>>,
}

impl Disk {
    /// `None` where that cannot be had here.
    pub fn new(site: &Site, kind: &str) -> Option<Self> {
        Self::of(site.path("disk.img"), site.path("disk"), None, kind)
    }

    /// One that can be made to fail: its image lies in a memory whose size can be changed.
    pub fn on_weak_ground(site: &Site, kind: &str) -> Option<Self> {
        let ground = site.path("ground");
        let mounted = Mounted::tmpfs(&ground, &format!("{}k", SIZE_BYTES / 1024 + 1024))?;
        let image = ground.join("disk.img");
        Self::of(image, site.path("disk"), Some((ground, mounted)), kind)
    }

    fn of(
        image: PathBuf,
        at: PathBuf,
        ground: Option<(PathBuf, Mounted)>,
        kind: &str,
    ) -> Option<Self> {
        let disk = Self { image, at, ground, pieces: RefCell::default() };
        fs::create_dir_all(&disk.at).unwrap();
        File::create(&disk.image).unwrap().set_len(SIZE_BYTES).unwrap();
        let (make, force) = (format!("mkfs.{kind}"), if kind == "xfs" { "-f" } else { "-F" });
        let made = is_root() && has(&make) && has("perl") && {
            run(Command::new(make).args(["-q", force]).arg(&disk.image))
        };
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        let mounted = run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]));
        if mounted && self.ground.is_some() {
            self.write_pages();
        }
        mounted
    }

    /// The loop device calls a write a success of which only the first pages found room: so each
    /// page is a write of its own.
    fn write_pages(&self) {
        let image = self.image.canonicalize().unwrap();
        let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let ours = |device: &PathBuf| {
            let behind = fs::read_to_string(device.join("loop/backing_file"));
            behind.is_ok_and(|path| Path::new(path.trim_end()) == image)
        };
        let device = devices.into_iter().find(ours).expect("the image has a loop device");
        let pieces = device.join("queue/max_sectors_kb");
        let before = fs::read_to_string(&pieces).unwrap();
        fs::write(&pieces, "4").unwrap();
        *self.pieces.borrow_mut() = Some((pieces, before));
    }

    /// The next user of the loop device finds it as it was.
    fn leave_device(&self) {
        if let Some((pieces, before)) = self.pieces.borrow_mut().take() {
            let _ = fs::write(pieces, before);
        }
    }

    /// Nothing that is not on disk by now ever gets there.
    pub fn cut(&self) {
        // FS_IOC_SHUTDOWN with FSOP_GOING_FLAGS_NOLOGFLUSH, of Linux' ext4.h and xfs_fs.h
        let cut = "my $how = pack('L', 2); open(my $disk, '<', $ARGV[0]) or die; \
                   ioctl($disk, 0x8004587d, $how) or die";
        assert!(run(Command::new("perl").args(["-e", cut]).arg(&self.at)), "the disk goes on");
    }

    /// Mounts it again: what only the kernel's memory held is gone.
    pub fn plug_in(&self) {
        self.take_out();
        self.put_in();
    }

    /// Mounts it.
    pub fn put_in(&self) {
        assert!(self.mount(), "the disk cannot be mounted again");
    }

    /// Unmounts it.
    pub fn take_out(&self) {
        self.leave_device();
        let free = within(PATIENCE, || run(Command::new("umount").arg(&self.at)));
        assert!(free, "the disk cannot be unmounted");
    }

    /// Everything that needs a new block fails from now on.
    pub fn spoil(&self) {
        let used = fs::metadata(&self.image).unwrap().blocks() / 2 + 8;
        self.ground_of(used);
    }

    /// It is well again.
    pub fn heal(&self) {
        self.ground_of(SIZE_BYTES / 1024 + 1024);
    }

    fn ground_of(&self, kib: u64) {
        let (ground, _) = self.ground.as_ref().expect("it is on weak ground");
        let size = format!("remount,size={kib}k");
        assert!(run(Command::new("mount").args(["-o", &size]).arg(ground)), "no {size}");
    }

    /// Puts directories of a site there, which does not notice.
    pub fn take_over(&self, site: &Site, names: &[&str]) {
        for name in names {
            let (there, here) = (self.at.join(name), site.path(name));
            fs::create_dir_all(&there).unwrap();
            fs::create_dir_all(here.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(there, here).unwrap();
        }
        assert!(run(Command::new("sync").arg("-f").arg(&self.at)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.leave_device();
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

pub fn run(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Keys of `[socket]` for a site whose state is moved.
pub fn socket_at(path: &Path) -> String {
    format!("stream = {path:?}\ndgram = \"\"")
}
