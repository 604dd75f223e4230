use std::{future, sync::atomic::AtomicBool};

use conductor_abi::abi_stable::std_types::ROk;

use super::*;
use crate::sessions::place::{NOW, Place, id, stored};

/// Says when it is dropped, a while after the drop began.
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_task_that_was_cancelled_is_gone_with_all_that_it_held() {
    let place = Place::with([stored("123456", NOW, &[])]);
    let session = place.manager.get(id("123456")).unwrap();
    for ends_by_itself in [false, true] {
        let dropped = Arc::new(AtomicBool::new(false));
        let held = Held(dropped.clone());
        let future = FfiFuture::new(async move {
            let _held = held;
            if !ends_by_itself {
                future::pending::<()>().await;
            }
            ROk(Vec::new().into())
        });
        let task = Task::new(session.clone(), 0, 1, future);
        session.world().pool.push(task.clone());
        let gone = task.clone().cancel(&session.world().pool);
        place.run(all_gone(vec![gone]));
        assert!(dropped.load(Ordering::SeqCst));
        // There is nothing left to wait for.
        place.run(all_gone(vec![task.cancel(&session.world().pool)]));
    }
}
