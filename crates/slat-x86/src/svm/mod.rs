//! AMD SVM.
