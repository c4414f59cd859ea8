#pragma once

// The linear assignment problem, in Eigen alone.

#include <Eigen/Core>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace smooseg::detail {

/// `hungarian` for rows <= columns, by shortest augmenting paths (Jonker and Volgenant, 1987): rows enter one by one,
/// and each finds the cheapest alternating path to a free column with Dijkstra's algorithm, under the reduced costs
/// cost - row_dual - column_dual >= 0. `source` is a virtual column that holds the row that is entering.
inline std::vector<int64_t> assign_rows(const Eigen::MatrixXd& cost) {
  using Indices = Eigen::Array<Eigen::Index, Eigen::Dynamic, 1>;
  using Flags = Eigen::Array<bool, Eigen::Dynamic, 1>;
  constexpr Eigen::Index kFree = -1;
  const Eigen::Index rows = cost.rows(), columns = cost.cols(), source = columns;
  Eigen::VectorXd row_dual = Eigen::VectorXd::Zero(rows), column_dual = Eigen::VectorXd::Zero(columns + 1);
  Indices row_of = Indices::Constant(columns + 1, kFree), previous(columns + 1);

  for (Eigen::Index row = 0; row < rows; ++row) {
    Eigen::VectorXd distance = Eigen::VectorXd::Constant(columns, std::numeric_limits<double>::infinity());
    Flags reached = Flags::Zero(columns + 1);
    Eigen::Index column = source;
    row_of[source] = row;
    while (row_of[column] != kFree) {
      reached[column] = true;
      const Eigen::Index i = row_of[column];
      Eigen::Index nearest = source;
      double step = std::numeric_limits<double>::infinity();
      for (Eigen::Index j = 0; j < columns; ++j) {
        if (reached[j]) continue;
        const double reduced = cost(i, j) - row_dual[i] - column_dual[j];
        if (reduced < distance[j]) {
          distance[j] = reduced;
          previous[j] = column;
        }
        if (distance[j] < step) {
          step = distance[j];
          nearest = j;
        }
      }
      for (Eigen::Index j = 0; j <= columns; ++j) {
        if (reached[j]) {
          row_dual[row_of[j]] += step;
          column_dual[j] -= step;
        } else {
          distance[j] -= step;
        }
      }
      column = nearest;
    }
    for (; column != source; column = previous[column]) row_of[column] = row_of[previous[column]];
  }

  std::vector<int64_t> column_of_row(static_cast<std::size_t>(rows));
  for (Eigen::Index j = 0; j < columns; ++j) {
    if (row_of[j] != kFree) column_of_row[static_cast<std::size_t>(row_of[j])] = j;
  }
  return column_of_row;
}

}  // namespace smooseg::detail

namespace smooseg::metrics {

/// The assignment of rows to columns, each used at most once, whose total cost is the smallest (Kuhn, 1955), in
/// O(min^2 max) steps. For the largest total pass `-profit`. Equal totals: any of the best assignments.
/// @param cost (rows, columns), finite; any shape, any sign.
/// @return The column of each row; -1 where there are fewer columns than rows and this row got none.
/// @throws std::invalid_argument for a cost that is not finite.
inline std::vector<int64_t> hungarian(const Eigen::MatrixXd& cost) {
  if (!cost.allFinite()) {
    throw std::invalid_argument("hungarian: expected finite costs, got NaN or infinity in a matrix of " +
                                std::to_string(cost.rows()) + " x " + std::to_string(cost.cols()));
  }
  if (cost.rows() <= cost.cols()) return detail::assign_rows(cost);
  std::vector<int64_t> column_of_row(static_cast<std::size_t>(cost.rows()), -1);
  const std::vector<int64_t> row_of_column = detail::assign_rows(cost.transpose());
  for (std::size_t column = 0; column < row_of_column.size(); ++column) {
    column_of_row[static_cast<std::size_t>(row_of_column[column])] = static_cast<int64_t>(column);
  }
  return column_of_row;
}

}  // namespace smooseg::metrics
