use super::Op;

pub(super) static OPS: &[&dyn Op] = &[];
