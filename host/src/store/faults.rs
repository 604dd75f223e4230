//! A disk for tests that fails or stops at a chosen operation, on top of the real one.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use super::disk::{Disk, RealDisk};

pub(super) const NO_SPACE: i32 = 28;
pub(super) const IO_ERROR: i32 = 5;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncFolder,
    Remove,
    Folder,
}

/// What a write of FILE consists of, in order.
pub(super) const STEPS: [Step; 5] = [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncFolder];

/// What a save consists of. The removal of the former state comes last, and is needed for nothing.
pub(super) const SAVE_STEPS: [Step; 6] = [Step::Folder, Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncFolder];

/// A handle for the test; its clones share one disk.
#[derive(Clone, Default)]
pub(super) struct FaultyDisk {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    log: Vec<Step>,
    /// Which step fails, with which error of the operating system, and how many times.
    faults: Vec<(Step, i32, usize)>,
    /// The next rename is done, and fails all the same.
    late: bool,
    hold: Option<Step>,
    held: bool,
    observer: Option<Box<dyn FnMut(Step) + Send>>,
}

impl FaultyDisk {
    pub(super) fn fail(&self, step: Step, error: i32, times: usize) {
        self.shared.0.lock().unwrap().faults.push((step, error, times));
    }

    pub(super) fn recover(&self) {
        self.shared.0.lock().unwrap().faults.clear();
    }

    /// Called before each step, on the writer's thread.
    pub(super) fn observe(&self, observer: impl FnMut(Step) + Send + 'static) {
        self.shared.0.lock().unwrap().observer = Some(Box::new(observer));
    }

    pub(super) fn fail_late(&self) {
        self.shared.0.lock().unwrap().late = true;
    }

    /// The writer stops before its next `step`; where it has stopped at another, it goes on from there.
    pub(super) fn hold(&self, step: Step) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        (state.hold, state.held) = (Some(step), false);
        changed.notify_all();
    }

    /// Returns once the writer has stopped.
    pub(super) fn wait_until_held(&self) {
        let (state, changed) = &*self.shared;
        let (_state, waited) = changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(30), |state| !state.held).unwrap();
        assert!(!waited.timed_out(), "the writer never came to that step");
    }

    pub(super) fn release(&self) {
        let (state, changed) = &*self.shared;
        state.lock().unwrap().hold = None;
        changed.notify_all();
    }

    pub(super) fn count(&self, step: Step) -> usize {
        self.log().iter().filter(|done| **done == step).count()
    }

    /// The steps begun so far.
    pub(super) fn log(&self) -> Vec<Step> {
        self.shared.0.lock().unwrap().log.clone()
    }

    fn begin(&self, step: Step) -> io::Result<()> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        state.log.push(step);
        if let Some(observer) = &mut state.observer {
            observer(step);
        }
        state.held = state.hold == Some(step);
        changed.notify_all();
        let mut state = changed.wait_while(state, |state| state.hold == Some(step)).unwrap();
        state.held = false;
        match state.faults.iter_mut().find(|(faulty, _, times)| *faulty == step && *times > 0) {
            Some((_, error, times)) => {
                *times -= 1;
                Err(io::Error::from_raw_os_error(*error))
            }
            None => Ok(()),
        }
    }
}

pub(super) struct FaultyFile {
    file: File,
    disk: FaultyDisk,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.begin(Step::Write) {
            // A full disk takes what still fits.
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn create(&self, path: &Path) -> io::Result<FaultyFile> {
        self.begin(Step::Create)?;
        Ok(FaultyFile { file: RealDisk.create(path)?, disk: self.clone() })
    }

    fn sync(&self, file: &mut FaultyFile) -> io::Result<()> {
        self.begin(Step::Sync)?;
        RealDisk.sync(&mut file.file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(Step::Rename)?;
        RealDisk.rename(from, to)?;
        match mem::take(&mut self.shared.0.lock().unwrap().late) {
            true => Err(io::Error::from_raw_os_error(IO_ERROR)),
            false => Ok(()),
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.begin(Step::SyncFolder)?;
        RealDisk.sync_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin(Step::Remove)?;
        RealDisk.remove(path)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.make_folder(folder)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.begin(Step::Folder)?;
        RealDisk.create_folder(folder)
    }
}
