//! Element types, tensor types and dense host arrays.

use crate::error::{Error, Result};
use ndarray::{ArcArray, ArrayD, IxDyn};
use std::fmt;

/// An ONNX element type that the graph knows. Half-precision floats are computed as [`DType::F32`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl DType {
    /// True for the two floating types.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
    /// True for signed and unsigned integers, not for `Bool`.
    pub fn is_int(self) -> bool {
        !self.is_float() && self != Self::Bool
    }
    /// The value of `onnx.TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::U16 => 4,
            Self::I16 => 5,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F64 => 11,
            Self::U32 => 12,
            Self::U64 => 13,
        }
    }
    /// The graph's type for an ONNX data type; float16 (10) and bfloat16 (16) are computed as float32.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Some(match code {
            1 | 10 | 16 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            _ => return None,
        })
    }
    /// The inclusive range of an integer type inside `i64` (`U64` is cut at `i64::MAX`).
    pub fn int_range(self) -> Option<(i64, i64)> {
        Some(match self {
            Self::I8 => (i8::MIN.into(), i8::MAX.into()),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::I64 => (i64::MIN, i64::MAX),
            Self::U8 => (0, u8::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            Self::U64 => (0, i64::MAX),
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

/// Element type and static shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// Joins an element type and a shape.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }
    /// Number of elements (1 for a scalar).
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True when an extent is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// A dense array in row-major order, cheap to clone. Every integer type is held as `i64`, since the
/// exact type stands in the [`TensorType`] of the value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    F32(ArcArray<f32, IxDyn>),
    F64(ArcArray<f64, IxDyn>),
    I64(ArcArray<i64, IxDyn>),
    Bool(ArcArray<bool, IxDyn>),
}

/// A Rust type that [`Array`] can hold.
pub trait Element: Copy + Send + Sync + PartialOrd + fmt::Debug + Default + 'static {
    /// Wraps a row-major array.
    fn wrap(a: ArcArray<Self, IxDyn>) -> Array;
    /// The array if it holds this type.
    fn unwrap(a: &Array) -> Option<&ArcArray<Self, IxDyn>>;
    /// The array if it holds this type, for changing in place.
    fn unwrap_mut(a: &mut Array) -> Option<&mut ArcArray<Self, IxDyn>>;
}

macro_rules! element {
    ($t:ty, $v:ident) => {
        impl Element for $t {
            fn wrap(a: ArcArray<Self, IxDyn>) -> Array {
                Array::$v(a)
            }
            fn unwrap(a: &Array) -> Option<&ArcArray<Self, IxDyn>> {
                if let Array::$v(a) = a { Some(a) } else { None }
            }
            fn unwrap_mut(a: &mut Array) -> Option<&mut ArcArray<Self, IxDyn>> {
                if let Array::$v(a) = a { Some(a) } else { None }
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);
element!(i64, I64);
element!(bool, Bool);

/// Runs `$body` with `$a` bound to the `ArcArray` inside, whatever its element type.
#[macro_export]
macro_rules! each_type {
    ($array:expr, $a:ident => $body:expr) => {
        match $array {
            $crate::tensor::Array::F32($a) => $body,
            $crate::tensor::Array::F64($a) => $body,
            $crate::tensor::Array::I64($a) => $body,
            $crate::tensor::Array::Bool($a) => $body,
        }
    };
}

impl Array {
    /// Wraps `data`, copying only when it is not in row-major order.
    pub fn new<T: Element>(data: ArrayD<T>) -> Self {
        let data = if data.is_standard_layout() { data } else { data.as_standard_layout().into_owned() };
        T::wrap(data.into_shared())
    }
    /// An array from its shape and its elements in row-major order.
    ///
    /// # Errors
    /// When the number of elements is not the product of the shape.
    pub fn from_vec<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self> {
        let n = data.len();
        ArrayD::from_shape_vec(IxDyn(shape), data)
            .map(Self::new)
            .map_err(|_| Error::invalid(format!("{n} elements do not fill the shape {shape:?}")))
    }
    /// A rank-1 `int64` array, as ONNX uses for shapes, axes and pads.
    pub fn ints(v: &[i64]) -> Self {
        Self::new(ndarray::Array1::from(v.to_vec()).into_dyn())
    }
    /// An array of one repeated value.
    pub fn full<T: Element>(shape: &[usize], v: T) -> Self {
        Self::new(ArrayD::from_elem(IxDyn(shape), v))
    }
    /// A float array of the given float type with every element `v`.
    pub fn full_float(dtype: DType, shape: &[usize], v: f64) -> Self {
        match dtype {
            DType::F64 => Self::full(shape, v),
            _ => Self::full(shape, v as f32),
        }
    }
    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        each_type!(self, a => a.shape())
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_type!(self, a => a.len())
    }
    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The element type that stands for this storage when nothing more exact is known.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::I64(_) => DType::I64,
            Self::Bool(_) => DType::Bool,
        }
    }
    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype(), self.shape())
    }
    /// The elements in row-major order.
    ///
    /// # Errors
    /// When the array holds another type.
    pub fn slice<T: Element>(&self) -> Result<&[T]> {
        T::unwrap(self)
            .and_then(|a| a.as_slice())
            .ok_or_else(|| Error::internal(format!("array holds {}, another type was expected", self.dtype())))
    }
    /// The elements in row-major order, for changing; copies first when shared.
    ///
    /// # Errors
    /// When the array holds another type.
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        let found = self.dtype();
        T::unwrap_mut(self)
            .and_then(|a| a.as_slice_mut())
            .ok_or_else(|| Error::internal(format!("array holds {found}, another type was expected")))
    }
    /// The typed array.
    ///
    /// # Errors
    /// When the array holds another type.
    pub fn typed<T: Element>(&self) -> Result<&ArcArray<T, IxDyn>> {
        T::unwrap(self)
            .ok_or_else(|| Error::internal(format!("array holds {}, another type was expected", self.dtype())))
    }
    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        let n: usize = shape.iter().product();
        if n != self.len() {
            return Err(Error::invalid(format!("cannot view shape {:?} as {shape:?}", self.shape())));
        }
        fn go<T: Element>(a: &ArcArray<T, IxDyn>, shape: &[usize]) -> Result<Array> {
            a.clone()
                .into_shape_with_order(IxDyn(shape))
                .map(T::wrap)
                .map_err(|e| Error::internal(format!("reshape: {e}")))
        }
        each_type!(self, a => go(a, shape))
    }
    /// Adds the elements of an array of the same float type and shape to those of this one, in place where nobody else
    /// holds them.
    ///
    /// # Errors
    /// When types or shapes differ.
    pub fn add_assign(&mut self, other: &Self) -> Result<()> {
        match (&mut *self, other) {
            (Self::F32(a), Self::F32(b)) if a.shape() == b.shape() => a.zip_mut_with(b, |x, y| *x += y),
            (Self::F64(a), Self::F64(b)) if a.shape() == b.shape() => a.zip_mut_with(b, |x, y| *x += y),
            _ => return Err(Error::internal(format!("cannot add {} to {}", other.ty(), self.ty()))),
        }
        Ok(())
    }
    /// The axes in another order: axis `k` of the result is axis `axes[k]` of this.
    ///
    /// # Panics
    /// When `axes` is no permutation.
    #[must_use]
    pub fn transposed(&self, axes: &[usize]) -> Self {
        if axes.iter().enumerate().all(|(k, &a)| k == a) {
            return self.clone();
        }
        each_type!(self, a => Self::new(a.view().permuted_axes(axes).as_standard_layout().into_owned()))
    }
    /// The last two axes swapped, and nothing moved in memory: only [`Array::matrices`] reads what comes out.
    #[must_use]
    pub(crate) fn swapped(&self) -> Self {
        fn go<T: Element>(a: &ArcArray<T, IxDyn>) -> Array {
            let (mut a, rank) = (a.clone(), a.ndim());
            if rank > 1 {
                a.swap_axes(rank - 2, rank - 1);
            }
            T::wrap(a)
        }
        each_type!(self, a => go(a))
    }
    /// The elements in row-major order, or in that which they have with the last two axes swapped: true then.
    ///
    /// # Errors
    /// When the array holds another type.
    pub fn matrices<T: Element>(&self) -> Result<(&[T], bool)> {
        let a = self.typed::<T>()?;
        match a.as_slice() {
            Some(elements) => Ok((elements, false)),
            None => a
                .as_slice_memory_order()
                .map(|elements| (elements, true))
                .ok_or_else(|| Error::internal("array has gaps")),
        }
    }
    /// All elements as `f64` in row-major order, whatever the type.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(a) => a.iter().map(|&v| f64::from(v)).collect(),
            Self::F64(a) => a.iter().copied().collect(),
            Self::I64(a) => a.iter().map(|&v| v as f64).collect(),
            Self::Bool(a) => a.iter().map(|&v| f64::from(u8::from(v))).collect(),
        }
    }
    /// The integers in row-major order.
    ///
    /// # Errors
    /// When the array holds no integers.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        Ok(self.slice::<i64>()?.to_vec())
    }
    /// This float array converted to the given float type; other arrays unchanged.
    pub fn to_float(&self, dtype: DType) -> Self {
        match (self, dtype) {
            (Self::F32(a), DType::F64) => Self::new(a.mapv(f64::from)),
            (Self::F64(a), DType::F32) => Self::new(a.mapv(|v| v as f32)),
            _ => self.clone(),
        }
    }
    /// True when no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::F32(a) => a.iter().all(|v| v.is_finite()),
            Self::F64(a) => a.iter().all(|v| v.is_finite()),
            _ => true,
        }
    }
}
